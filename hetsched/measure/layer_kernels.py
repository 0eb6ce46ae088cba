"""Chooses CPU kernels by computing part of a model's own layer with each of them, before it runs.

Shapes: T tokens, S = tokens sorted by expert, E experts, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ..cpu_kernels import Choice, ExpertKernel, KernelTiming, choose, make_kernels
from ..cpu_kernels.packed_ways import LOSSLESS_WAYS, UNPACK
from ..engine.cpu_layer import ExactExperts, TokenOrder
from ..engine.cpu_only import LayerExperts, by_choice
from ..engine.expert_ffn import PLAIN
from ..packed import Layout, layout_of, parameter_names
from .timing import time_together

TOKENS = (1, 4, 16, 64)
PRODUCTS = 8  # experts times tokens in a measured call, at least


def choose_layer_kernels(module: Any, dtype: str, budget_s: float = 1.0, tokens: Sequence[int] = TOKENS) -> Choice:
    """The fastest kernels for a layer whose experts get 1, 4, 16, 64 tokens, within about `budget_s`.

    Other experts on every call, so that weights are as fresh as in a model. `dtype` of the weights: fp32, bf16 or fp16;
    for packed ones it does not matter.
    """
    layout = layout_of(module)
    kernels: list[ExpertKernel] = list(LOSSLESS_WAYS) if layout.is_packed else make_kernels(dtype)
    if len(kernels) == 1:
        return Choice(tuple(kernels), (1,), f"the only kernel for {dtype}")
    weights_E = _weights(module, layout)
    exact = ExactExperts(module, weights_E)
    layers = [by_choice(module, weights_E, Choice((kernel,), (1,), ""), exact) for kernel in kernels]
    if layout.is_packed and layers[-1] is exact:
        return Choice((UNPACK,), (1,), f"no packed kernel reads these {dtype} experts")
    timings: list[KernelTiming] = []
    with torch.no_grad():
        for count in tokens:
            calls = [_call(module, layer, count) for layer in layers]
            timings += _timings(kernels, calls, count, budget_s / len(tokens))
    return choose(timings, kernels)


def _weights(module: Any, layout: Layout) -> list[Mapping[str, torch.Tensor]]:
    """Each expert's weights where they lie."""
    rows = layout.rows_of(module) if layout.is_packed else None
    if rows is not None:
        return [layout.views(row) for row in rows]
    names = parameter_names(module)
    return [{name: getattr(module, name).data[e] for name in names} for e in range(module.num_experts)]


def _timings(
    kernels: Sequence[ExpertKernel], calls: Sequence[Callable[[int], object]], count: int, budget_s: float
) -> list[KernelTiming]:
    measured = time_together(calls, budget_s)
    return [KernelTiming(k.name, count, timing.median_s) for k, timing in zip(kernels, measured, strict=True)]


def _call(module: Any, layer: LayerExperts, count: int) -> Callable[[int], object]:
    """Call number i: `count` tokens, each routed to the same few experts, others for every i."""
    up = getattr(module, parameter_names(module)[0])
    several = min(max(PRODUCTS // count, 1), module.num_experts)
    hidden_TH = torch.ones((count, up.shape[1 if module.is_transposed else 2]), dtype=up.dtype)
    rows_S = torch.arange(count).repeat(several)
    weights_S1 = torch.ones((len(rows_S), 1), dtype=up.dtype)
    return partial(_forward, layer, hidden_TH, rows_S, weights_S1, several, module.num_experts)


def _forward(
    layer: LayerExperts,
    hidden_TH: torch.Tensor,
    rows_S: torch.Tensor,
    weights_S1: torch.Tensor,
    several: int,
    num_experts: int,
    number: int,
) -> None:
    active = sorted((number * several + i) % num_experts for i in range(several))
    layer.forward(hidden_TH, TokenOrder(active, [len(hidden_TH)] * several, rows_S, weights_S1), PLAIN)
