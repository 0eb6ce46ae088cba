"""Synthetic routing with a stated skew, locality and drift; the same seed gives the same trace.

Every layer has a popularity ranking, a random permutation of its experts, and the expert at rank r weighs r ** -skew.
A token keeps each expert that the token before it chose with probability `locality`; its other choices are drawn one
after another in proportion to the weights of the experts not chosen yet (Plackett-Luce). At the start of a sequence
every expert joins, with probability `drift`, a group whose ranks are shuffled among themselves for that sequence: with
0 all sequences have one ranking, with 1 each has its own. Inside a sequence the ranking stays.

Shapes: T tokens, C tokens of a chunk, L layers, E experts or ranks, K choices, S sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..jit import compiled_and_kept
from ..types import FloatArray, IntArray, Phase
from .meta import MAX_EXPERTS
from .writer import TraceWriter

_CHUNK_DRAWS = 1 << 20
_MAX_TOTAL = 1 << 22  # experts of all layers, for each of which a few numbers are kept
MAX_SKEW = 8.0


@dataclass(frozen=True)
class SynthParams:
    """What a synthetic trace is like; skew, locality and drift hold one number for each layer.

    Raises InputError for numbers out of range.
    """

    layers: int
    experts: int
    top_k: int
    tokens: int
    sequences: int
    skew_L: tuple[float, ...]
    locality_L: tuple[float, ...]
    drift_L: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, low, high in (
            ("layers", 1, 10_000),
            ("experts", 1, MAX_EXPERTS),
            ("top_k", 1, self.experts),
            ("tokens", 1, 2**31 - 1),
            ("sequences", 1, self.tokens),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie in {low}..{high}")
        if self.layers * self.experts > _MAX_TOTAL:
            raise InputError(f"{self.layers} layers of {self.experts} experts exceed {_MAX_TOTAL:,} experts in all")
        for name, most in (("skew_L", MAX_SKEW), ("locality_L", 1.0), ("drift_L", 1.0)):
            values = getattr(self, name)
            if len(values) != self.layers:
                raise InputError(
                    f"{name} holds {len(values)} numbers; it must hold one for each of {self.layers} layers"
                )
            if outside := [value for value in values if not 0 <= value <= most]:
                raise InputError(f"{name[:-2]} is {outside[0]:g}; it must lie in 0..{most:g}")

    @classmethod
    def uniform(
        cls,
        *,
        layers: int,
        experts: int,
        top_k: int,
        tokens: int,
        sequences: int,
        skew: float,
        locality: float,
        drift: float,
    ) -> SynthParams:
        """The same skew, locality and drift in all layers."""
        numbers = ((value,) * max(layers, 0) for value in (skew, locality, drift))
        return cls(layers, experts, top_k, tokens, sequences, *numbers)

    def as_dict(self) -> dict[str, Any]:
        """For a JSON document."""
        return {name.removesuffix("_L"): value for name, value in asdict(self).items()}


def synthesise(
    params: SynthParams,
    seed: int,
    path: str | Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write a synthetic trace, of decode tokens, in memory for one chunk; the meta object stored."""
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed}; it must lie in 0..{2**63 - 1}")
    made = {"synthetic": {**params.as_dict(), "seed": seed}, "source": "hetsched trace synth"}
    with TraceWriter(path, params.experts, (params.layers, params.top_k)) as writer:
        for sequence, experts_CLK in generate(params, seed):
            count = len(experts_CLK)
            numbers, phases = np.full(count, sequence), np.full(count, int(Phase.DECODE))
            writer.append(experts=experts_CLK, sequence=numbers, phase=phases)
            progress(writer.tokens, params.tokens)
        return writer.finish(model=f"synthetic-{params.top_k}-of-{params.experts}", **made)


def generate(params: SynthParams, seed: int) -> Iterator[tuple[int, npt.NDArray[np.int16]]]:
    """Sequence number and choices int16 [C, L, K], chunk by chunk in order; a chunk has tokens of one sequence."""
    rng = np.random.default_rng(seed)
    L, E, K = params.layers, params.experts, params.top_k
    weight_LE = np.arange(1, E + 1, dtype=float) ** -np.array(params.skew_L)[:, None]
    expert_LE = np.stack([rng.permutation(E) for _ in range(L)])
    before_LK = np.zeros((L, K), np.int64)
    chunk = max(1, _CHUNK_DRAWS // (L * K))
    bounds = np.linspace(0, params.tokens, params.sequences + 1).round().astype(int)
    for sequence, (start, stop) in enumerate(pairwise(bounds.tolist())):
        shown_LE = _drifted(expert_LE, params.drift_L, rng)
        for first in range(start, stop, chunk):
            count = min(chunk, stop - first)
            experts_CLK = np.empty((count, L, K), np.int16)
            draws_CLK, keeps_CLK = rng.random((count, L, K)), rng.random((count, L, K))
            if first == start:
                keeps_CLK[0] = 2.0  # nothing comes before a sequence
            locality_L = np.array(params.locality_L)
            _choose(experts_CLK, before_LK, draws_CLK, keeps_CLK, locality_L, weight_LE, shown_LE)
            yield sequence, experts_CLK


def _drifted(expert_LE: IntArray, drift_L: tuple[float, ...], rng: np.random.Generator) -> IntArray:
    """The expert at every rank in one sequence."""
    shown_LE = expert_LE.copy()
    for ranks_E, drift in zip(shown_LE, drift_L, strict=True):
        moved = np.flatnonzero(rng.random(len(ranks_E)) < drift)
        ranks_E[moved] = ranks_E[rng.permutation(moved)]
    return shown_LE


@compiled_and_kept
def _choose(
    experts_CLK: npt.NDArray[np.int16],
    before_LK: IntArray,
    draws_CLK: FloatArray,
    keeps_CLK: FloatArray,
    locality_L: FloatArray,
    weight_LE: FloatArray,
    expert_LE: IntArray,
) -> None:
    """Choices of consecutive tokens; `before_LK` holds the ranks that the token before chose, and then the last's."""
    C, L, K = experts_CLK.shape
    E = weight_LE.shape[1]
    is_chosen_E = np.zeros(E, np.bool_)
    for c in range(C):
        for l in range(L):
            kept, total = 0, weight_LE[l].sum()
            for k in range(K):
                if keeps_CLK[c, l, k] < locality_L[l]:
                    rank = before_LK[l, k]
                    before_LK[l, kept] = rank
                    is_chosen_E[rank] = True
                    total -= weight_LE[l, rank]
                    kept += 1
            for k in range(kept, K):
                left, rank = draws_CLK[c, l, k] * total, -1
                for e in range(E):
                    if not is_chosen_E[e]:
                        rank = e  # the last free one, if rounding leaves something over
                        left -= weight_LE[l, e]
                        if left < 0:
                            break
                before_LK[l, k] = rank
                is_chosen_E[rank] = True
                total -= weight_LE[l, rank]
            for k in range(K):
                is_chosen_E[before_LK[l, k]] = False
                experts_CLK[c, l, k] = expert_LE[l, before_LK[l, k]]
