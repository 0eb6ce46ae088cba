"""Routing traces: which experts a model's routers chose, token by token.

Shapes: T tokens, L MoE layers, K top-k, E experts, H width of the model.
Format "hetsched-routing-trace/1": an .npz without pickles.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..types import FloatArray, IntArray
from .archive import read_arrays, write_arrays
from .checks import OPTIONAL, REQUIRED, examine
from .meta import FORMAT, meta_array, trace_meta
from .routers import ARRAYS, Routers

__all__ = ["FORMAT", "RoutingTrace", "load_trace", "report", "save_trace"]


CHUNK = 65_536  # tokens summed at once


@dataclass(frozen=True)
class RoutingTrace:
    """Expert choices of every token in every layer.

    `experts_TLK` int16, `sequence_T` int32 (tokens of one sequence stand together), `phase_T` uint8 (types.Phase),
    `weights_TLK` float16 or None, `num_experts` per layer, `meta` as stored. `step_T` int32 or None: tokens with equal
    numbers went through the model in one forward pass. `hidden_TLH` float16 or None: what each layer's router was
    given; `routers` or None: the routers themselves, of the whole trace. `kept_T` uint8 or None, which is all kept: 1
    where the token stayed in the text (a verify step's first input, and the drafts that were accepted), 0 for rejected
    drafts. Arrays of a loaded trace may be read-only views of its file.
    """

    experts_TLK: npt.NDArray[np.int16]
    sequence_T: npt.NDArray[np.int32]
    phase_T: npt.NDArray[np.uint8]
    num_experts: int
    weights_TLK: npt.NDArray[np.float16] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    step_T: npt.NDArray[np.int32] | None = None
    hidden_TLH: npt.NDArray[np.float16] | None = None
    routers: Routers | None = None
    kept_T: npt.NDArray[np.uint8] | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens recorded."""
        return len(self.experts_TLK)

    @property
    def num_layers(self) -> int:
        """MoE layers recorded."""
        return int(self.experts_TLK.shape[1])

    @property
    def top_k(self) -> int:
        """Experts chosen per token and layer."""
        return int(self.experts_TLK.shape[2])

    @property
    def width(self) -> int:
        """Numbers of one hidden state, 0 where none are recorded."""
        return 0 if self.hidden_TLH is None else int(self.hidden_TLH.shape[2])

    def demand_LE(self, tokens: slice | IntArray) -> IntArray:
        """Tokens routed to each expert of each layer by a group of tokens, int64 [L, E]."""
        return self._summed_LE(tokens, None).astype(np.int64)

    def weight_LE(self, tokens: slice | IntArray) -> FloatArray:
        """Router weight of each expert of each layer, summed over a group of tokens, float [L, E]; tokens weigh 1 each
        where the trace has no weights.
        """
        return self._summed_LE(tokens, self.weights_TLK)

    def _summed_LE(self, tokens: slice | IntArray, weights_TLK: npt.NDArray[Any] | None) -> FloatArray:
        layers, experts = self.num_layers, self.num_experts
        row_L1 = experts * np.arange(layers)[:, None]
        sum_LE = np.zeros((layers, experts))
        chosen_TLK = self.experts_TLK[tokens]
        weight_TLK = None if weights_TLK is None else weights_TLK[tokens]
        for begin in range(0, len(chosen_TLK), CHUNK):  # a mapped trace need not fit into memory
            part = slice(begin, begin + CHUNK)
            flat = (chosen_TLK[part] + row_L1).ravel()
            weight = None if weight_TLK is None else weight_TLK[part].ravel()
            sum_LE += np.bincount(flat, weight, layers * experts).reshape(layers, experts)
        return sum_LE

    def full_meta(self) -> dict[str, Any]:
        """`meta` with the fields that every file has."""
        return {**trace_meta(self.num_experts, self.top_k, self.num_layers), **self.meta}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a file holds of the trace: arrays by name, with the meta object."""
        stored: dict[str, npt.NDArray[Any] | None] = {
            "experts": self.experts_TLK,
            "sequence": self.sequence_T,
            "phase": self.phase_T,
            "weights": self.weights_TLK,
            "step": self.step_T,
            "kept": self.kept_T,
            "hidden": self.hidden_TLH,
            **(self.routers.arrays() if self.routers else {}),
            "meta": meta_array(self.full_meta()),
        }
        return {name: array for name, array in stored.items() if array is not None}


def _place(path: Path) -> Path:
    elsewhere = Path(os.environ.get("HETSCHED_TRACES", "."), path)
    return elsewhere if not path.exists() and elsewhere.exists() else path


def load_trace(path: str | Path) -> RoutingTrace:
    """Open and check a trace file; memory is needed only for what is used of it.

    Every value is checked, in chunks. Raises InputError naming the file, the first thing that is wrong, and how many
    others there are. A file that is not there is looked for in the folder that HETSCHED_TRACES names.
    """
    path = _place(Path(path))
    arrays = read_arrays(path, REQUIRED + OPTIONAL + ARRAYS)
    meta, found = examine(arrays)
    if found:
        others = f" (and {len(found) - 1} more; 'hetsched trace info' lists them)" if len(found) > 1 else ""
        raise InputError(f"{path}: {found[0]}{others}")
    return RoutingTrace(
        arrays["experts"],
        arrays["sequence"],
        arrays["phase"],
        meta["num_experts"],
        arrays.get("weights"),
        meta,
        arrays.get("step"),
        arrays.get("hidden"),
        Routers.of_arrays(arrays),
        arrays.get("kept"),
    )


def report(path: str | Path) -> list[str]:
    """Everything that is wrong with a trace file, a line each with count and first position; [] for a good one.

    Raises InputError for what is no .npz at all.
    """
    return examine(read_arrays(path, REQUIRED + OPTIONAL + ARRAYS))[1]


def save_trace(path: str | Path, trace: RoutingTrace, *, compress: bool = False) -> None:
    """Write a trace file atomically: a reader sees the old file or the whole new one. Uncompressed ones can be mapped.

    Raises InputError for a trace that load_trace would refuse, or a folder that cannot be written.
    """
    arrays = trace.arrays()
    _, found = examine(arrays)
    if found:
        raise InputError(f"{path}: not written, since the trace is wrong: {found[0]}")
    write_arrays(path, arrays, compress=compress)
