"""Measures the CPU: the roof of memory reads, expert FFNs with the best kernels, and the rest of a layer."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..cpu_kernels import Choice, ChosenKernel, ExpertKernel, kernel_names
from ..machine.fingerprint import cpu_name
from ..machine.memory import total_bytes
from ..machine.profile import ExpertShape, LatencyTable, Processor
from .calls import measure_calls
from .cpu_kernels import choose_kernels, read_bytes_per_s, time_kernel
from .dense import dense_call_s, measure_dense
from .experts import DTYPES, ExpertPool
from .request import Request
from .table import measure_table, table_notes
from .timing import Timing, time_calls

ROOF_SHARE, CHOICE_SHARE, TABLE_SHARE, CALL_SHARE, DENSE_SHARE = 0.10, 0.20, 0.55, 0.05, 0.10


def measure_cpu(request: Request) -> tuple[Processor, Choice, ExpertPool, list[str]]:
    """The CPU's profile, the kernels chosen, the experts measured with (for contention), and notes."""
    shape, notes = runnable_shape(request.shape)
    budget_s = request.budget_s
    request.report(0.0, "memory read rate")
    read_rate = read_bytes_per_s(budget_s * ROOF_SHARE)
    request.report(budget_s * ROOF_SHARE, "choice of CPU kernels")
    pool = ExpertPool(shape, DTYPES[shape.dtype])
    choice = choose_kernels(shape, budget_s * CHOICE_SHARE, pool=pool)
    request.report(budget_s * CHOICE_SHARE, "experts on the CPU")
    kernel = ChosenKernel(choice)
    table = _table(request, shape, kernel, pool)
    notes += table_notes("cpu", table, request.tokens)
    notes.append(f"CPU kernels: {choice.reason}")
    request.report(0.0, "cost of a call, and of each expert in it")
    dtype = DTYPES[shape.dtype]
    calls = measure_calls(kernel, time_calls, dtype, budget_s * CALL_SHARE / 2).within(min(table.median_s_P))
    dense_s = dense_call_s(kernel.linear, time_calls, dtype, budget_s * CALL_SHARE / 2)
    request.report(budget_s * CALL_SHARE, "rest of a layer on the CPU")
    device = Processor(
        name=cpu_name(),
        capacity_bytes=total_bytes(),
        read_bytes_per_s=float(f"{max(read_rate, _read_by_experts(table)):.4g}"),
        flops_per_s=float(f"{_flops(table):.4g}"),
        call_s=calls.call_s,
        tables=(table,),
        dense=measure_dense(request, kernel.linear, time_calls, dtype, budget_s * DENSE_SHARE),
        per_expert_s=calls.per_expert_s,
        dense_call_s=dense_s,
    )
    request.report(budget_s * DENSE_SHARE, "CPU done")
    return device, choice, pool, notes


def runnable_shape(shape: ExpertShape) -> tuple[ExpertShape, list[str]]:
    """The shape in a dtype that some CPU kernel computes, with a note where that is another one."""
    if kernel_names(shape.dtype):
        return shape, []
    note = f"cpu: no lossless kernel for {shape.dtype}; measured with bf16 weights, the cost model scales by bytes"
    return replace(shape, dtype="bf16"), [note]


def time_cpu(kernel: ExpertKernel, pool: ExpertPool, shape: ExpertShape, tokens: int, budget_s: float) -> Timing:
    """Seconds of one expert on `tokens` tokens, another expert on every call."""
    return time_kernel(kernel, pool, torch.randn(tokens, shape.hidden).to(DTYPES[shape.dtype]), budget_s)


def _table(request: Request, shape: ExpertShape, kernel: ExpertKernel, pool: ExpertPool) -> LatencyTable:
    def time_at(tokens: int, seconds: float) -> Timing:
        timing = time_cpu(kernel, pool, shape, tokens, seconds)
        request.report(request.budget_s * TABLE_SHARE / len(request.tokens), f"experts on the CPU, {tokens} tokens")
        return timing

    return measure_table(time_at, shape, request.tokens, request.budget_s * TABLE_SHARE, kernel.name)


def _flops(table: LatencyTable) -> float:
    """What the largest count reached."""
    return max(2.0 * table.shape.params * n / s for n, s in zip(table.tokens_P, table.median_s_P, strict=True))


def _read_by_experts(table: LatencyTable) -> float:
    """What the fewest tokens reached: no roof lies below it, whatever a busy moment made of the roof's measurement."""
    return table.shape.weight_bytes / table.median_s_P[0]
