"""Measures the CPU kernels against each other and chooses: at attach, and for a profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from ..cpu_kernels import (
    Choice,
    ChosenKernel,
    ExpertKernel,
    KernelTiming,
    choice_in,
    choose,
    lossy_kernels,
    make_kernels,
)
from ..cpu_kernels.torch_kernels import TorchLinear
from ..geometry import MoEGeometry
from ..machine.memory import cache_bytes, free_bytes
from ..machine.profile import ExpertShape, HardwareProfile
from .experts import DTYPES, ExpertPool
from .timing import time_calls, time_together

CHOICE_TOKENS = (1, 4, 8, 16, 32, 64, 128)


def time_kernels(
    kernels: Sequence[ExpertKernel], pool: ExpertPool, shape: ExpertShape, tokens: Sequence[int], budget_s: float
) -> list[KernelTiming]:
    """Every kernel at every token count, in turns; about `budget_s` in all."""
    rows = []
    for count in tokens:
        hidden_TH = torch.randn(count, shape.hidden).to(DTYPES[shape.dtype])
        calls = [partial(_run, kernel, pool, hidden_TH) for kernel in kernels]
        for kernel, timing in zip(kernels, time_together(calls, budget_s / len(tokens)), strict=True):
            rows.append(KernelTiming(kernel.name, count, timing.median_s))
    return rows


def choose_kernels(
    shape: ExpertShape, budget_s: float = 2.0, tokens: Sequence[int] = CHOICE_TOKENS, pool: ExpertPool | None = None
) -> Choice:
    """The fastest kernels for a shape by measurement, within about `budget_s`."""
    kernels = make_kernels(shape.dtype)
    if len(kernels) == 1:
        return Choice(tuple(kernels), (1,), f"the only kernel for {shape.dtype}", ())
    experts = pool or ExpertPool(shape, DTYPES[shape.dtype])
    return choose(time_kernels(kernels, experts, shape, tokens, budget_s), kernels)


def attach_kernel(geometry: MoEGeometry, profile: HardwareProfile | None = None, budget_s: float = 1.0) -> ChosenKernel:
    """The kernel to run a model's experts with: as the profile records, else by a measurement of about `budget_s`.

    `.choice.reason` says why. Raises InputError for a dtype that no lossless kernel computes.
    """
    recorded = choice_in(profile, geometry.dtype) if profile else None
    return ChosenKernel(recorded or choose_kernels(ExpertShape.of(geometry), budget_s))


class KernelRow(NamedTuple):
    """One kernel at one token count: rate at which it reads its own weights, and share of the roof of memory reads.

    `against_fp32`: seconds of torch's fp32 product over this kernel's. `error`: relative to double precision.
    """

    kernel: str
    lossless: bool
    n: int
    median_s: float
    bytes_per_s: float
    roof_share: float
    against_fp32: float
    error: float


def kernel_table(shape: ExpertShape, tokens: Sequence[int], budget_s: float, lossy: bool = False) -> list[KernelRow]:
    """All kernels for a shape beside torch's fp32 product on the same experts, and the roof measured in between."""
    kernels = [*make_kernels(shape.dtype), *(lossy_kernels() if lossy else [])]
    pool, wide = ExpertPool(shape, DTYPES[shape.dtype]), replace(shape, dtype="fp32")
    baseline, wide_pool = TorchLinear(torch.float32), ExpertPool(wide, torch.float32)
    roof = read_bytes_per_s(budget_s * 0.1)
    rows = []
    for count in tokens:
        hidden_TH = torch.randn(count, shape.hidden)
        narrow_TH = hidden_TH.to(DTYPES[shape.dtype])
        calls = [partial(_run, baseline, wide_pool, hidden_TH), *(partial(_run, k, pool, narrow_TH) for k in kernels)]
        timings = time_together(calls, budget_s * 0.9 / len(tokens))
        fp32_s = timings[0].median_s
        rows.append(_row(baseline, wide, count, fp32_s, roof, fp32_s, 0.0))
        for kernel, timing in zip(kernels, timings[1:], strict=True):
            error = _error(kernel, pool, narrow_TH)
            rows.append(_row(kernel, shape, count, timing.median_s, roof, fp32_s, error))
    return rows


def _row(
    kernel: ExpertKernel, shape: ExpertShape, count: int, seconds: float, roof: float, fp32_s: float, error: float
) -> KernelRow:
    rate = shape.params * kernel.weight_bytes / seconds
    return KernelRow(kernel.name, kernel.lossless, count, seconds, rate, rate / roof, fp32_s / seconds, error)


def _run(kernel: ExpertKernel, pool: ExpertPool, hidden_TH: torch.Tensor, number: int) -> torch.Tensor:
    return kernel.swiglu(hidden_TH, pool.at(number, kernel))


def _error(kernel: ExpertKernel, pool: ExpertPool, hidden_TH: torch.Tensor) -> float:
    """Norm of the difference from double precision on the stored weights, over the norm of the result."""
    weights = pool.weights[0]
    gate, up = (hidden_TH.double() @ weights.gate_up_2FH.double().t()).chunk(2, dim=-1)
    expected = (torch.nn.functional.silu(gate) * up) @ weights.down_HF.double().t()
    found = kernel.swiglu(hidden_TH, pool.at(0, kernel)).double()
    return float((found - expected).norm() / expected.norm())


def read_bytes_per_s(budget_s: float) -> float:
    """Rate at which all compute threads together read memory that is in no cache: the roof of CPU experts."""
    values = min(max(8 * cache_bytes(), 256 << 20), free_bytes() // 4) // 8
    memory = torch.empty(values, dtype=torch.int64)
    for begin in range(0, values, 1 << 24):  # so that a Ctrl-C is heard in between
        memory[begin : begin + (1 << 24)] = 1
    timing = time_calls(lambda _: memory.sum(), budget_s)
    return values * 8 / timing.median_s
