"""Predicted against measured: what a profile says about token counts and geometries that are not in its tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import torch

from ..cost.model import CostModel
from ..geometry import MoEGeometry
from ..machine.profile import ExpertShape, HardwareProfile
from .cpu import runnable_shape
from .cpu_experts import cpu_experts
from .experts import DTYPES, ExpertPool
from .timing import Timing, time_calls

CHECK_TOKENS = (3, 6, 12, 24, 48, 96, 192)  # from 9 on a table need not have them
WORST_ERROR = 0.20  # of any row, either way
AGAIN = 2  # times that a row beyond it is measured again
SCALING_SHAPES = ((2048, 1024), (2880, 1440), (1024, 3072))  # hidden, ffn: OLMoE's, half of gpt-oss's, a tall one


class CheckRow(NamedTuple):
    """One prediction beside its measurement; error is predicted / measured - 1."""

    device: str
    op: str
    n: int
    predicted_s: float
    measured_s: float
    error: float


def median_error(rows: Sequence[CheckRow]) -> float:
    """Median of the errors' sizes."""
    return median(abs(row.error) for row in rows)


def worst_error(rows: Sequence[CheckRow]) -> float:
    """The largest error's size."""
    return max(abs(row.error) for row in rows)


def check_profile(
    profile: HardwareProfile, geometry: MoEGeometry, budget_s: float, report: Callable[[str], None] = lambda _: None
) -> list[CheckRow]:
    """The expert FFN at token counts between the table's, on each device present that the profile describes."""
    shape, _ = runnable_shape(ExpertShape.of(geometry))
    cost = CostModel(profile, geometry.with_dtype(shape.dtype))
    rows = _cpu_rows(cost, profile, shape, "expert", CHECK_TOKENS, budget_s, report)
    from .gpu import gpu_present

    return rows + (_gpu_rows(profile, geometry, budget_s) if gpu_present() and profile.gpu else [])


def check_scaling(
    profile: HardwareProfile, dtype: str, budget_s: float, report: Callable[[str], None] = lambda _: None
) -> list[CheckRow]:
    """The expert FFN at other geometries, predicted by scaling the profile's table through the roofline."""
    rows: list[CheckRow] = []
    for hidden, ffn in SCALING_SHAPES:
        shape, _ = runnable_shape(ExpertShape(hidden, ffn, dtype))
        geometry = MoEGeometry(f"{hidden}x{ffn}", 1, 1, 1, hidden, ffn, shape.dtype)
        cost, op = CostModel(profile, geometry), f"expert scaled to {hidden}x{ffn}"
        rows += _cpu_rows(cost, profile, shape, op, (1, 4, 16, 64), budget_s / len(SCALING_SHAPES), report)
    return rows


def _cpu_rows(
    cost: CostModel,
    profile: HardwareProfile,
    shape: ExpertShape,
    op: str,
    tokens: Sequence[int],
    budget_s: float,
    report: Callable[[str], None],
) -> list[CheckRow]:
    experts = cpu_experts(shape, budget_s, profile)

    def row_at(count: int) -> CheckRow:
        timing = time_calls(experts.call(count), budget_s / len(tokens))
        return _row("cpu", op, count, cost.cpu_call_s() + float(cost.cpu_s(count)), timing)

    rows = []
    for count in tokens:
        report(f"{op} on the CPU, {count} tokens")
        rows.append(settled(lambda n=count: row_at(n)))  # type: ignore[misc]
    return rows


def settled(row: Callable[[], CheckRow]) -> CheckRow:
    """The row; where it misses the target, the best of a few: a busy machine only ever makes measurements longer."""
    found = row()
    for _ in range(AGAIN):
        if abs(found.error) <= WORST_ERROR:
            break
        found = min(found, row(), key=lambda each: each.measured_s)
    return found


def _gpu_rows(profile: HardwareProfile, geometry: MoEGeometry, budget_s: float) -> list[CheckRow]:
    from ..cpu_kernels.torch_kernels import TorchLinear
    from .gpu import time_events

    shape, _ = runnable_shape(ExpertShape.of(geometry), packed=False)
    cost = CostModel(profile, geometry.with_dtype(shape.dtype))
    dtype = DTYPES[shape.dtype]
    kernel, pool = TorchLinear(dtype), ExpertPool(shape, dtype, "cuda")
    rows = []
    for count in CHECK_TOKENS:
        hidden_TH = torch.randn(count, shape.hidden).to("cuda", dtype)
        timing = time_events(
            lambda i, x=hidden_TH: kernel.swiglu(x, pool.at(i, kernel)),  # type: ignore[misc]
            budget_s / len(CHECK_TOKENS),
        )
        rows.append(_row("gpu", "expert", count, cost.gpu_call_s() + float(cost.gpu_s(count)), timing))
    return rows


def _row(device: str, op: str, count: int, predicted_s: float, timing: Timing) -> CheckRow:
    return CheckRow(device, op, count, predicted_s, timing.median_s, predicted_s / timing.median_s - 1)
