"""Small traces for these tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hetsched.traces.trace import RoutingTrace, save_trace


def made(tokens: int = 40, layers: int = 3, experts: int = 8, top_k: int = 2, sequences: int = 4, **more: Any) -> Any:
    """Random routing, equally long sequences, decode."""
    rng = np.random.default_rng(more.pop("seed", 0))
    chosen_TLK = rng.random((tokens, layers, experts)).argsort(axis=2)[:, :, :top_k].astype(np.int16)
    sequence_T = (np.arange(tokens) * sequences // tokens).astype(np.int32)
    fields = {"experts_TLK": chosen_TLK, "sequence_T": sequence_T, "phase_T": np.ones(tokens, np.uint8)}
    return RoutingTrace(num_experts=experts, **{**fields, **more})


def saved(path: Path, **more: Any) -> Path:
    """The file of made(**more)."""
    save_trace(path, made(**more))
    return path


def same(first: RoutingTrace, second: RoutingTrace) -> bool:
    """Whether two traces hold equal arrays."""
    ours, theirs = first.arrays(), second.arrays()
    names = (ours.keys() | theirs.keys()) - {"meta"}
    return all(name in ours and name in theirs and np.array_equal(ours[name], theirs[name]) for name in names)
