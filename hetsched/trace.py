"""Routing traces: which experts a model's routers chose, token by token.

Shapes: T tokens, L MoE layers, K top-k, E experts. Format "hetsched-routing-trace/1": an .npz without pickles.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .types import IntArray

FORMAT = "hetsched-routing-trace/1"


@dataclass(frozen=True)
class RoutingTrace:
    """Expert choices of every token in every layer.

    `experts_TLK` int16, `sequence_T` int32 (tokens of one sequence stand together), `phase_T` uint8 (types.Phase),
    `weights_TLK` float16 or None, `num_experts` per layer, `meta` as stored.
    """

    experts_TLK: npt.NDArray[np.int16]
    sequence_T: npt.NDArray[np.int32]
    phase_T: npt.NDArray[np.uint8]
    num_experts: int
    weights_TLK: npt.NDArray[np.float16] | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Tokens recorded."""
        return len(self.experts_TLK)

    @property
    def num_layers(self) -> int:
        """MoE layers recorded."""
        return int(self.experts_TLK.shape[1])

    def demand_LE(self, tokens: slice | IntArray) -> IntArray:
        """Tokens routed to each expert of each layer by a group of tokens, int64 [L, E]."""
        chosen_TLK = self.experts_TLK[tokens].astype(np.int64)
        layers, experts = self.num_layers, self.num_experts
        flat = chosen_TLK + experts * np.arange(layers)[None, :, None]
        return np.bincount(flat.ravel(), minlength=layers * experts).reshape(layers, experts)


def load_trace(path: str | Path) -> RoutingTrace:
    """Read and check a trace file. Raises InputError naming the file, the field and what was expected."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such trace file") from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path}: not a routing trace (an .npz without pickles): {error}") from error
    for name in ("experts", "sequence", "phase", "meta"):
        if name not in arrays:
            raise InputError(f"{path}: no array {name!r}; a {FORMAT} file has experts, sequence, phase and meta")
    return _checked(path, arrays, _read_meta(path, arrays["meta"]))


def _read_meta(path: str | Path, stored: npt.NDArray[Any]) -> dict[str, Any]:
    try:
        meta = json.loads(str(stored))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: meta is not JSON: {error}") from error
    if not isinstance(meta, dict) or meta.get("format", FORMAT) != FORMAT:
        raise InputError(f"{path}: meta has format {meta!r:.60}, expected {FORMAT!r}")
    return meta


def _checked(path: str | Path, arrays: dict[str, npt.NDArray[Any]], meta: dict[str, Any]) -> RoutingTrace:
    experts_TLK = arrays["experts"]
    if experts_TLK.ndim != 3 or not np.issubdtype(experts_TLK.dtype, np.integer):
        raise InputError(f"{path}: experts is {experts_TLK.dtype} {experts_TLK.shape}, expected integers [T, L, K]")
    weights_TLK = arrays.get("weights")
    wanted = {"sequence": experts_TLK.shape[:1], "phase": experts_TLK.shape[:1], "weights": experts_TLK.shape}
    for name, shape in wanted.items():
        if name in arrays and arrays[name].shape != shape:
            raise InputError(f"{path}: {name} has shape {arrays[name].shape}, expected {shape}")
    num_experts = meta.get("num_experts")
    if not isinstance(num_experts, int) or num_experts < 1:
        raise InputError(f"{path}: meta.num_experts is {num_experts!r}, expected a whole number >= 1")
    if experts_TLK.size and not (experts_TLK.min() >= 0 and experts_TLK.max() < num_experts):
        raise InputError(f"{path}: experts holds numbers outside 0..{num_experts - 1} (meta.num_experts)")
    return RoutingTrace(
        experts_TLK.astype(np.int16),
        arrays["sequence"].astype(np.int32),
        arrays["phase"].astype(np.uint8),
        num_experts,
        weights_TLK,
        meta,
    )
