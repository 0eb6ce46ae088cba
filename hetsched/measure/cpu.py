"""Measures the CPU: the roof of memory reads, expert FFNs with the best kernels, and the rest of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..cpu_kernels import kernel_names
from ..geometry import formats_named
from ..machine.fingerprint import cpu_name
from ..machine.memory import total_bytes
from ..machine.profile import ExpertShape, LatencyTable, Processor
from .cpu_experts import CpuExperts, cpu_experts
from .cpu_kernels import read_bytes_per_s
from .dense import dense_call_s, measure_dense
from .request import Request
from .table import MORE, measure_table, table_notes
from .timing import Timing, time_calls

ROOF_SHARE, CHOICE_SHARE, TABLE_SHARE, CALL_SHARE, DENSE_SHARE = 0.10, 0.20, 0.55, 0.05, 0.10


def measure_cpu(request: Request) -> tuple[Processor, CpuExperts, list[str]]:
    """The CPU's profile, the experts measured with (for contention), and notes."""
    shape, notes = runnable_shape(request.shape)
    budget_s = request.budget_s
    request.report(0.0, "memory read rate")
    read_rate = read_bytes_per_s(budget_s * ROOF_SHARE)
    request.report(budget_s * ROOF_SHARE, "choice of CPU kernels")
    experts = cpu_experts(shape, budget_s * CHOICE_SHARE)
    request.report(budget_s * CHOICE_SHARE, "experts on the CPU")
    tokens = with_switches(request.tokens, experts.from_tokens)
    table = _table(request, experts, tokens)
    notes += table_notes("cpu", table, tokens)
    notes.append(f"CPU kernels: {experts.reason}")
    request.report(0.0, "cost of a call, and of each expert in it")
    calls = experts.calls(budget_s * CALL_SHARE / 2).within(min(table.median_s_P))
    dense_s = dense_call_s(experts.linear, time_calls, experts.dtype, budget_s * CALL_SHARE / 2)
    request.report(budget_s * CALL_SHARE, "rest of a layer on the CPU")
    device = Processor(
        name=cpu_name(),
        capacity_bytes=total_bytes(),
        read_bytes_per_s=float(f"{max(read_rate, _read_by_experts(table)):.4g}"),
        flops_per_s=float(f"{_flops(table):.4g}"),
        call_s=calls.call_s,
        tables=(table,),
        dense=measure_dense(request, experts.linear, time_calls, experts.dtype, budget_s * DENSE_SHARE),
        per_expert_s=calls.per_expert_s,
        dense_call_s=dense_s,
    )
    request.report(budget_s * DENSE_SHARE, "CPU done")
    return device, experts, notes


def runnable_shape(shape: ExpertShape, packed: bool = True) -> tuple[ExpertShape, list[str]]:
    """The shape in something that is computed with as it is stored, with a note where that is another thing.

    `packed`: whether formats are; a width alone never is.
    """
    if kernel_names(shape.dtype) or (packed and formats_named(shape.dtype)):
        return shape, []
    note = f"no kernel is measured on {shape.dtype}; measured with bf16 weights, the cost model scales by bytes"
    return replace(shape, dtype="bf16"), [f"{'cpu' if packed else 'gpu'}: {note}"]


def with_switches(tokens: Sequence[int], from_tokens: Sequence[int]) -> tuple[int, ...]:
    """Token counts to measure: these, and the last of one kernel and the first of the next, where the curve breaks."""
    breaks = {n for begin in from_tokens if begin > 1 for n in (begin - 1, begin)}
    return tuple(sorted({*tokens, *(n for n in breaks if tokens[0] <= n <= tokens[-1])}))


def _table(request: Request, experts: CpuExperts, tokens: Sequence[int]) -> LatencyTable:
    def time_at(count: int, seconds: float) -> Timing:
        timing = time_calls(experts.call(count), seconds)
        request.report(request.budget_s * TABLE_SHARE / (len(tokens) + MORE), f"experts on the CPU, {count} tokens")
        return timing

    return measure_table(time_at, experts.shape, tokens, request.budget_s * TABLE_SHARE, experts.kernel)


def _flops(table: LatencyTable) -> float:
    """What the largest count reached."""
    return max(2.0 * table.shape.params * n / s for n, s in zip(table.tokens_P, table.median_s_P, strict=True))


def _read_by_experts(table: LatencyTable) -> float:
    """What the fewest tokens reached: no roof lies below it, whatever a busy moment made of the roof's measurement."""
    return table.shape.weight_bytes / table.median_s_P[0]
