"""Figures of a trace: how even experts are used, how tokens repeat them, and what caches of each size would hit.

Shapes: T tokens, C tokens of a chunk, L layers, E experts, K choices, D = L * E experts of all layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..types import FloatArray, IntArray, Phase
from .checks import chunks
from .fit_synth import repeated
from .reuse import ReuseCounter, hit_curve
from .split import sequence_starts
from .trace import RoutingTrace
from .verified import Drafting, drafting

SAMPLE_TOKENS = 100_000
SAMPLE_RUNS = 8
FRACTIONS = (0.05, 0.1, 0.25, 0.5, 0.75)
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


@dataclass(frozen=True)
class TraceSummary:
    """What `hetsched trace info` shows. Lengths and phases count all tokens, the rest `sampled_tokens` of them.

    `counts_LE`: tokens that chose each expert. `entropy_bits_L`: of the shares of an expert, at most log2 E.
    `repeat_L`: P(expert chosen at t+1 | chosen at t) inside sequences. `independent_L`: what that would be if tokens
    chose independently with the layer's shares: sum of squared shares over K. `reuse`: quantiles of the LRU stack
    distance in experts of all layers, None where it is a first use. `lru_D1`, `lfu_D1`: hit rate by capacity, 0 to D.
    `drafting`: of all verify steps, None where the trace does not say what was kept.
    """

    meta: dict[str, Any]
    tokens: int
    sequences: int
    sequence_tokens: tuple[int, int, int]
    layers: int
    experts: int
    top_k: int
    has_weights: bool
    steps: int | None
    phases: dict[str, int]
    sampled_tokens: int
    counts_LE: IntArray
    entropy_bits_L: FloatArray
    repeat_L: FloatArray
    independent_L: FloatArray
    reuse: dict[float, int | None]
    first_use_share: float
    lru_D1: FloatArray
    lfu_D1: FloatArray
    drafting: Drafting | None = None

    @property
    def max_entropy_bits(self) -> float:
        """Entropy of a layer that uses all experts alike."""
        return float(np.log2(self.experts))

    def hits(self, curve_D1: FloatArray, fraction: float) -> float:
        """Hit rate of a cache for a share of all experts."""
        return float(curve_D1[int(fraction * (len(curve_D1) - 1))])


def summarise(
    trace: RoutingTrace,
    sample_tokens: int = SAMPLE_TOKENS,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> TraceSummary:
    """Figures of a trace. Beyond `sample_tokens` eight runs of consecutive tokens stand for the whole."""
    starts_S, runs = sequence_starts(trace), sample_runs(trace.num_tokens, sample_tokens)
    shape = trace.num_layers, trace.num_experts
    counter, counts_LE = ReuseCounter(shape[0] * shape[1]), np.zeros(shape, np.int64)
    repeats_L, pairs, done = np.zeros(shape[0]), 0, 0
    sampled = sum(run.stop - run.start for run in runs)
    for run in runs:
        for part in chunks(run.stop - run.start, shape[0] * trace.top_k):
            tokens = slice(run.start + part.start, run.start + part.stop)
            counts_LE += trace.demand_LE(tokens)
            offset_L1 = (shape[1] * np.arange(shape[0], dtype=np.int32))[:, None]
            counter.add((trace.experts_TLK[tokens] + offset_L1).astype(np.int32).ravel())
            done += part.stop - part.start
            progress(done, sampled)
        inner_S = starts_S[(starts_S > run.start) & (starts_S < run.stop)]
        for start, stop in zip([run.start, *inner_S], [*inner_S, run.stop], strict=True):
            repeats_L += repeated(trace, int(start), int(stop))
            pairs += int(stop - start) - 1
    lengths_S = np.diff(starts_S)
    share_LE = counts_LE / sampled  # of tokens that choose an expert; sums to K in a layer
    return TraceSummary(
        trace.meta,
        trace.num_tokens,
        len(lengths_S),
        (int(lengths_S.min()), int(np.median(lengths_S)), int(lengths_S.max())),
        *shape,
        trace.top_k,
        trace.weights_TLK is not None,
        None if trace.step_T is None else _distinct(trace),
        _phases(trace),
        sampled,
        counts_LE,
        _entropy_bits(share_LE / trace.top_k),
        repeats_L / max(pairs, 1) / trace.top_k,
        (share_LE**2).sum(axis=1) / trace.top_k,
        _quantiles(counter.lru_D1),
        float(counter.lru_D1[-1] / counter.lru_D1.sum()),
        hit_curve(counter.lru_D1),
        hit_curve(counter.lfu_D1),
        drafting(trace),
    )


def sample_runs(num_tokens: int, sample_tokens: int) -> list[slice]:
    """All tokens as one run, or SAMPLE_RUNS evenly spaced runs of `sample_tokens` together."""
    if num_tokens <= sample_tokens:
        return [slice(0, num_tokens)]
    length = max(1, sample_tokens // SAMPLE_RUNS)
    starts = np.linspace(0, num_tokens - length, SAMPLE_RUNS).astype(int)
    return [slice(int(start), int(start) + length) for start in starts]


def _entropy_bits(share_LE: FloatArray) -> FloatArray:
    logs_LE = np.log2(share_LE, out=np.zeros_like(share_LE), where=share_LE > 0)
    return np.asarray(np.maximum(-(share_LE * logs_LE).sum(axis=1), 0.0))


def _quantiles(distances_D1: IntArray) -> dict[float, int | None]:
    cumulated = np.cumsum(distances_D1) / max(int(distances_D1.sum()), 1)
    places = {q: int(np.searchsorted(cumulated, q)) for q in QUANTILES}
    return {q: place if place < len(distances_D1) - 1 else None for q, place in places.items()}


def _phases(trace: RoutingTrace) -> dict[str, int]:
    counts = np.zeros(256, np.int64)
    for part in chunks(trace.num_tokens):
        counts += np.bincount(trace.phase_T[part], minlength=256)
    return {phase.name.lower(): int(counts[phase]) for phase in Phase if counts[phase]}


def _distinct(trace: RoutingTrace) -> int:
    assert trace.step_T is not None
    step_T = trace.step_T
    return 1 + sum(
        int(np.count_nonzero(np.diff(step_T[max(part.start - 1, 0) : part.stop]))) for part in chunks(trace.num_tokens)
    )
