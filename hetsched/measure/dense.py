"""Measures the rest of a layer: projections, norms and router as a chain of kernels with as many weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F

from ..machine.memory import cache_bytes
from ..machine.profile import DenseTable, Source
from .request import Request
from .table import round_s
from .timing import Timing

DENSE_TOKENS = (1, 4, 16, 64, 256)
PARTS = 4  # queries, keys and values, output, shared experts with router

Linear: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Timer: TypeAlias = Callable[[Callable[[int], object], float], Timing]


def measure_dense(
    request: Request, linear: Linear, timer: Timer, dtype: torch.dtype, budget_s: float, device: str = "cpu"
) -> tuple[DenseTable, ...]:
    """One table of the rest of a layer, none when no model was given. Attention over the context is not in it."""
    geometry = request.geometry
    if not (request.with_dense and geometry.dense_params):
        return ()
    rows = max(geometry.dense_params // geometry.hidden // PARTS, 1)
    layer_bytes = PARTS * rows * geometry.hidden * dtype.itemsize
    count = max(min(4 * cache_bytes() // layer_bytes + 1, 64), 2)
    shape = (count, PARTS, rows, geometry.hidden)
    weights = torch.full(shape, 0.01, dtype=dtype, device=device)
    medians = []
    for tokens in DENSE_TOKENS:
        hidden_TH = torch.randn(tokens, geometry.hidden).to(device, dtype)
        timing = timer(_layer(linear, weights, hidden_TH), budget_s / len(DENSE_TOKENS))
        medians.append(round_s(timing.median_s))
    return (DenseTable(geometry.name, DENSE_TOKENS, tuple(medians), Source.MEASURED),)


def dense_call_s(linear: Linear, timer: Timer, dtype: torch.dtype, budget_s: float, device: str = "cpu") -> float:
    """The same chain with matrices too small to take time: what calling its kernels takes."""
    weights = torch.full((2, PARTS, 64, 64), 0.01, dtype=dtype, device=device)
    return round_s(timer(_layer(linear, weights, torch.ones(1, 64, dtype=dtype, device=device)), budget_s).median_s)


def _layer(linear: Linear, weights: Any, hidden_TH: torch.Tensor) -> Callable[[int], object]:
    width = (hidden_TH.shape[-1],)

    def run(number: int) -> torch.Tensor:
        parts = weights[number % len(weights)]
        normed = F.rms_norm(hidden_TH, width)
        outputs = [linear(normed, parts[i]) for i in range(PARTS)]
        return F.rms_norm(hidden_TH + outputs[-1].mean(), width).softmax(-1)

    return run
