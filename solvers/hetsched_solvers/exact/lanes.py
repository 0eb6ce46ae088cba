"""A dispatch problem as one table in the order of the lanes, and the objective of a choice on it.

Shapes: N experts under decision, V victims, M movable experts (those with a choice), K numbers of fetches 0..K-1.
Movable experts stand in the order in which the GPU lane would run them: first those that are here (resident, in flight)
by arrival, then those that can be fetched, in Johnson order. A choice is x_M: 1 on the GPU, 0 on the CPU.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from hetsched.jit import compiled
from hetsched.types import FloatArray, IntArray

GPU, CPU, COPY, READY, UTILITY = range(5)  # rows of the table
ON_CPU, WORK, LATE, LINK = range(4)  # lanes that bounds see
Bits: TypeAlias = npt.NDArray[np.int8]
Ends: TypeAlias = tuple[float, float, float, float]


class Lanes(NamedTuple):
    """What the objective needs, all times in units of `unit_s`.

    `table` [5, M]; COPY and UTILITY are 0 for the `num_here` first. `price_sum_K`: the k cheapest victims together.
    `cpu_start`: round trip plus the experts that can only run on the CPU; counts when anything runs there (`stuck`: it
    always does). `gpu_start`: the GPU's call; counts whether anything runs there or not. `last_ready`, `last_gpu`: an
    expert that must run on the GPU after all others that are here, if any. `final_copy`, `final_gpu`: one that must be
    fetched after all others, if any (-1: none); its victim and utility are in `price_sum_K`. `start_24`: lengths of the
    lanes below with every movable expert on the CPU, as bounds see them: row 0 when no movable expert is fetched, row 1
    when one is.

    Bounds see four lanes that are linear in the choice, each at most the makespan: the CPU; WORK, all the GPU computes;
    LATE, what it computes after the first arrival or the last expert here; LINK, up to the last arrival and the
    shortest expert after it (only when anything is fetched).
    """

    table: FloatArray
    num_here: int
    price_sum_K: FloatArray
    link_free: float
    cpu_start: float
    gpu_start: float
    stuck: bool
    last_ready: float
    last_gpu: float
    final_copy: float
    final_gpu: float
    start_24: FloatArray


@compiled
def sort_by(key_F: FloatArray, order_F: IntArray) -> None:
    """Bring `order_F` into ascending order of its keys, stable; cheap when it was nearly in order already."""
    for f in range(1, len(order_F)):
        moved = order_F[f]
        g = f
        while g > 0 and key_F[order_F[g - 1]] > key_F[moved]:
            order_F[g] = order_F[g - 1]
            g -= 1
        order_F[g] = moved


@compiled
def assign(source: Bits | FloatArray, target: Bits | FloatArray) -> None:
    """Copy one array into another of the same length (a slice assignment takes seconds to compile)."""
    for i in range(len(target)):
        target[i] = source[i]


@compiled
def goes_before(packed: FloatArray, size: int, a: int, b: int) -> bool:
    """Whether expert a runs before expert b on the GPU lane."""
    ready_a, ready_b = packed[4 * size + a], packed[4 * size + b]
    if ready_a < np.inf or ready_b < np.inf:
        return bool(ready_a < ready_b)
    gpu_a, gpu_b = packed[a], packed[b]
    copy_a, copy_b = packed[3 * size + a], packed[3 * size + b]
    short_a, short_b = copy_a < gpu_a, copy_b < gpu_b
    if short_a != short_b:
        return bool(short_a)
    return bool(copy_a < copy_b if short_a else gpu_a > gpu_b)


@compiled
def movable_experts(packed: FloatArray, size: int, victims: int) -> IntArray:
    """Experts with a choice, in lane order: all but those that are not here and cannot be fetched."""
    order_M = np.empty(size, np.int64)
    count = 0
    for i in range(size):
        if packed[4 * size + i] == np.inf and (packed[3 * size + i] == np.inf or victims == 0):
            continue
        j = count
        while j > 0 and goes_before(packed, size, i, order_M[j - 1]):
            order_M[j] = order_M[j - 1]
            j -= 1
        order_M[j] = i
        count += 1
    return order_M[:count]


@compiled
def fill_table(packed: FloatArray, size: int, order_M: IntArray, unit_s: float, cap: float) -> tuple[FloatArray, int]:
    """Times of the movable experts in units of `unit_s`, cut to `cap` units; and how many of them are here."""
    table, num_here = np.zeros((5, len(order_M))), 0
    for m in range(len(order_M)):
        i = order_M[m]
        table[GPU, m] = min(packed[i] / unit_s, cap)
        table[CPU, m] = min(packed[size + i] / unit_s, cap)
        if packed[4 * size + i] < np.inf:
            table[READY, m] = min(packed[4 * size + i] / unit_s, cap)
            num_here += 1
        else:
            table[COPY, m] = min(packed[3 * size + i] / unit_s, cap)
            table[UTILITY, m] = packed[2 * size + i] / unit_s
    return table, num_here


@compiled
def price_sums(packed: FloatArray, size: int, num_fetchable: int, final: int, unit_s: float) -> FloatArray:
    """`price_sum_K`; with a `final` expert the first victim is its own, and its utility is taken off."""
    taken = 1 if final >= 0 else 0
    most = min(num_fetchable, len(packed) - 5 * size - taken)
    price_sum_K = np.zeros(most + 1)
    if final >= 0:
        price_sum_K[0] = (packed[5 * size] - packed[2 * size + final]) / unit_s
    for k in range(most):
        price_sum_K[k + 1] = price_sum_K[k] + packed[5 * size + k + taken] / unit_s
    return price_sum_K


@compiled
def only_on_cpu(packed: FloatArray, size: int, order_M: IntArray, last: int, final: int) -> tuple[float, bool]:
    """Seconds of the experts that are neither movable nor `last` nor `final`, and whether there are any."""
    elsewhere_N = np.zeros(size, np.bool_)
    for m in range(len(order_M)):
        elsewhere_N[order_M[m]] = True
    stuck_s, stuck = 0.0, False
    for i in range(size):
        if not elsewhere_N[i] and i not in (last, final):
            stuck_s += packed[size + i]
            stuck = True
    return stuck_s, stuck


@compiled
def lane_starts(
    table: FloatArray,
    num_here: int,
    can_fetch: bool,
    link_free: float,
    cpu_start: float,
    gpu_start: float,
    ends_4: Ends,
) -> FloatArray:
    """`start_24`. `ends_4`: `last_ready`, `last_gpu`, `final_copy` and `final_gpu` of Lanes."""
    on_cpu, shortest_copy, shortest = 0.0, np.inf, np.inf
    for m in range(table.shape[1]):
        on_cpu += table[CPU, m]
        if m >= num_here:
            shortest_copy, shortest = min(shortest_copy, table[COPY, m]), min(shortest, table[GPU, m])
    last_ready, last_gpu, final_copy, final_gpu = ends_4
    start_24 = np.zeros((2, 4))
    for fetched in range(2):
        start_24[fetched, ON_CPU] = cpu_start + on_cpu
        start_24[fetched, WORK] = gpu_start + last_gpu + final_gpu
        start_24[fetched, LATE] = max(gpu_start, last_ready) + last_gpu + final_gpu
        if final_copy >= 0:
            first = min(shortest_copy, final_copy) if fetched else final_copy
            start_24[fetched, LATE] = max(start_24[fetched, LATE], link_free + first + final_gpu)
            start_24[fetched, LINK] = link_free + final_copy + final_gpu
        elif fetched and can_fetch:
            start_24[fetched, LATE] = max(start_24[fetched, LATE], link_free + shortest_copy)
            start_24[fetched, LINK] = link_free + shortest
    return start_24


@compiled
def lay_out(
    packed: FloatArray,
    size: int,
    order_M: IntArray,
    last: int,
    final: int,
    link_free_s: float,
    roundtrip_s: float,
    gpu_call_s: float,
    unit_s: float,
    cap: float,
) -> Lanes:
    """The problem in units of `unit_s`, times of movable experts cut to `cap` units.

    `order_M`: experts with a choice; `last` must run on the GPU, `final` must be fetched (-1: none), all others run on
    the CPU. With the longest makespan that can be optimal as the unit and a cap of 2, nothing that matters is cut, and
    one huge cost does not drown the others in rounding.
    """
    table, num_here = fill_table(packed, size, order_M, unit_s, cap)
    price_sum_K = price_sums(packed, size, len(order_M) - num_here, final, unit_s)
    stuck_s, stuck = only_on_cpu(packed, size, order_M, last, final)
    ends_4 = (0.0, 0.0, -1.0, 0.0)
    if last >= 0:
        ends_4 = (packed[4 * size + last] / unit_s, packed[last] / unit_s, ends_4[2], ends_4[3])
    if final >= 0:
        ends_4 = (ends_4[0], ends_4[1], packed[3 * size + final] / unit_s, packed[final] / unit_s)
    cpu_start, link_free, gpu_start = (roundtrip_s + stuck_s) / unit_s, link_free_s / unit_s, gpu_call_s / unit_s
    start_24 = lane_starts(table, num_here, len(price_sum_K) > 1, link_free, cpu_start, gpu_start, ends_4)
    return Lanes(table, num_here, price_sum_K, link_free, cpu_start, gpu_start, stuck, *ends_4, start_24)


@compiled
def longest(length_5: FloatArray) -> float:
    """Length of the longest lane: the relaxed makespan."""
    return float(max(max(length_5[ON_CPU], length_5[WORK]), max(length_5[LATE], length_5[LINK])))


@compiled
def move_to_gpu(lanes: Lanes, m: int, sign: int, length_5: FloatArray) -> int:
    """Bring movable expert m to the GPU (sign 1) or back (-1) in the lanes' lengths, its utility in the fifth number.

    Returns the change in fetches; what victims cost is left to the caller.
    """
    table = lanes.table
    length_5[ON_CPU] -= sign * table[CPU, m]
    length_5[WORK] += sign * table[GPU, m]
    if m < lanes.num_here:
        return 0
    length_5[LATE] += sign * table[GPU, m]
    length_5[LINK] += sign * table[COPY, m]
    length_5[4] -= sign * table[UTILITY, m]
    return sign


@compiled
def objective(lanes: Lanes, x_M: Bits) -> float:
    """Makespan plus prices of a choice: DispatchProblem.objective_s on the table; infinite with too many fetches.

    With nothing on the GPU it is that of a GPU which makes its call for nothing.
    """
    gpu_end, cpu_end, arrival, utility, fetches = lanes.gpu_start, lanes.cpu_start, lanes.link_free, 0.0, 0
    on_cpu = lanes.stuck
    table = lanes.table
    for m in range(lanes.num_here):
        if x_M[m] == 0:
            cpu_end += table[CPU, m]
            on_cpu = True
        else:
            gpu_end = max(gpu_end, table[READY, m]) + table[GPU, m]
    gpu_end = max(gpu_end, lanes.last_ready) + lanes.last_gpu
    for m in range(lanes.num_here, len(x_M)):
        if x_M[m] == 0:
            cpu_end += table[CPU, m]
            on_cpu = True
        else:
            arrival += table[COPY, m]
            gpu_end = max(gpu_end, arrival) + table[GPU, m]
            utility += table[UTILITY, m]
            fetches += 1
    if lanes.final_copy >= 0:
        gpu_end = max(gpu_end, arrival + lanes.final_copy) + lanes.final_gpu
    if fetches >= len(lanes.price_sum_K):
        return float(np.inf)
    makespan = max(gpu_end, cpu_end) if on_cpu else gpu_end
    return float(makespan + lanes.price_sum_K[fetches] - utility)
