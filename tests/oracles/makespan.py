"""Oracle: makespan of one MoE layer for a chosen partition, in closed form, and with contention.

Shapes: F fetched experts, in the order of their copies.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hetsched.cost.model import CostModel
from hetsched.types import FloatArray


class Lanes(NamedTuple):
    """When each lane ends, in seconds after the decision; the layer ends with the later of GPU and CPU."""

    gpu_end_s: float
    cpu_end_s: float
    link_end_s: float

    @property
    def makespan_s(self) -> float:
        """Seconds until every active expert has finished."""
        return max(self.gpu_end_s, self.cpu_end_s)


def johnson_order(copy_s_F: FloatArray, gpu_s_F: FloatArray) -> list[int]:
    """Order of copies that ends the GPU lane first (Johnson 1954): short copies first, then long computes first."""
    first = sorted(np.flatnonzero(copy_s_F < gpu_s_F), key=lambda i: copy_s_F[i])
    last = sorted(np.flatnonzero(copy_s_F >= gpu_s_F), key=lambda i: -gpu_s_F[i])
    return [int(i) for i in (*first, *last)]


def lanes(
    resident_s: float,
    fetch_gpu_s_F: FloatArray,
    fetch_copy_s_F: FloatArray,
    cpu_s: float,
    roundtrip_s: float = 0.0,
    link_free_s: float = 0.0,
    cpu_slowdown: float = 1.0,
    link_slowdown: float = 1.0,
    gpu_call_s: float = 0.0,
) -> Lanes:
    """Ends of the three lanes. `resident_s`, `cpu_s`: work on the GPU and the CPU, 0 where there is none.

    `gpu_call_s`: before the GPU's first expert, if there is one.

    Slowdowns of 1 give the formula without contention. Otherwise the CPU lane runs at 1 / cpu_slowdown of its rate, and
    the link at 1 / link_slowdown, for as long as both are busy.
    """
    order = johnson_order(fetch_copy_s_F, fetch_gpu_s_F)
    copied_s_F = np.cumsum(fetch_copy_s_F[order])
    copy_work_s = float(copied_s_F[-1]) if order else 0.0
    start_s = roundtrip_s if cpu_s > 0 else 0.0
    cpu_end_s = finish_s(cpu_s, start_s, cpu_slowdown, copy_work_s, link_free_s, link_slowdown)
    gpu_end_s = gpu_call_s + resident_s if resident_s or order else 0.0
    for copied_s, compute_s in zip(copied_s_F, fetch_gpu_s_F[order], strict=True):
        arrival_s = finish_s(float(copied_s), link_free_s, link_slowdown, cpu_s, start_s, cpu_slowdown, copy_work_s)
        gpu_end_s = max(gpu_end_s, arrival_s) + float(compute_s)
    last_s = finish_s(copy_work_s, link_free_s, link_slowdown, cpu_s, start_s, cpu_slowdown)
    return Lanes(gpu_end_s, cpu_end_s if cpu_s > 0 else 0.0, last_s if order else 0.0)


def finish_s(
    work_s: float,
    start_s: float,
    slowdown: float,
    other_work_s: float,
    other_start_s: float,
    other_slowdown: float,
    lane_work_s: float | None = None,
) -> float:
    """When `work_s` of a lane is done, the lane being slowed while the other lane is busy.

    `lane_work_s`: all the work of the lane, where `work_s` is only its first part: the other lane's end depends on it.
    """
    whole_s = work_s if lane_work_s is None else lane_work_s
    if whole_s <= 0 or other_work_s <= 0:
        return start_s + work_s
    both_start_s = max(start_s, other_start_s)
    left_s = whole_s - (both_start_s - start_s)  # of either lane when both have begun
    other_left_s = other_work_s - (both_start_s - other_start_s)
    if left_s <= 0 or other_left_s <= 0:
        return start_s + work_s
    both_s = min(left_s * slowdown, other_left_s * other_slowdown)
    done_alone_s = both_start_s - start_s
    if work_s <= done_alone_s:
        return start_s + work_s
    in_both_s = (work_s - done_alone_s) * slowdown
    if in_both_s <= both_s:
        return both_start_s + in_both_s
    return both_start_s + both_s + (work_s - done_alone_s - both_s / slowdown)


def makespan_of(
    cost: CostModel,
    resident_n: npt.ArrayLike,
    fetched_n: npt.ArrayLike,
    cpu_n: npt.ArrayLike,
    link_free_s: float = 0.0,
    contention: bool = False,
) -> float:
    """Seconds until the last lane ends, for experts with these token counts: on the GPU, fetched then GPU, on the CPU.

    The round trip is that of all tokens that visit the CPU. `contention`: CPU and copies slow each other by the
    profile's factors.
    """
    fetched, on_cpu = np.atleast_1d(fetched_n), np.atleast_1d(cpu_n)
    resident_s = float(np.sum(cost.gpu_s(resident_n))) if np.size(resident_n) else 0.0
    return lanes(
        resident_s,
        cost.gpu_s(fetched) if fetched.size else np.zeros(0),
        np.full(fetched.size, cost.copy_s() if fetched.size else 0.0),
        float(np.sum(cost.cpu_s(on_cpu))) if on_cpu.size else 0.0,
        cost.cpu_start_s(int(on_cpu.sum())) if on_cpu.size else 0.0,
        link_free_s,
        cost.profile.cpu_slowdown if contention else 1.0,
        cost.profile.h2d_slowdown if contention else 1.0,
        cost.gpu_call_s(),
    ).makespan_s
