"""Lower bounds for dispatch: Lagrangian relaxation of the makespan, one bound for every number of fetches.

Shapes: M movable experts (lanes.py), F those that can be fetched, K numbers of fetches 0..K-1.

The makespan is at least the length of each lane that is linear in the choice (lanes.Lanes). For weights y >= 0, sum 1,
on three of them (CPU, LINK, and WORK or LATE),

    objective >= y . lanes(x) + prices(x)

and with the number of fetches fixed the right-hand side falls apart expert by expert: those that are here choose by
sign, the fetches are the smallest scores. The best y is found by cutting planes (Kelley 1960); as there are only
three lanes, the master problem is solved by looking at its vertices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hetsched.jit import compiled
from hetsched.types import FloatArray, IntArray

from .lanes import COPY, CPU, GPU, LATE, LINK, ON_CPU, UTILITY, WORK, Bits, Lanes, move_to_gpu, sort_by

MAX_CUTS = 24
ROUND = 1e-11  # of the makespan's size: what sums of a few hundred numbers may lose to rounding


class Relaxation(NamedTuple):
    """A relaxation's problem, and what its latest minimiser left behind.

    `score_F`, and `order_F` sorted by it; the minimiser `x_M`, the lengths of its four lanes and its prices `length_5`;
    the best bounds so far, `bound_K`.
    """

    lanes: Lanes
    score_F: FloatArray
    order_F: IntArray
    x_M: Bits
    length_5: FloatArray
    bound_K: FloatArray


@compiled
def relaxation(lanes: Lanes) -> Relaxation:
    """The working memory, without bounds."""
    movable, num_fetchable = lanes.table.shape[1], lanes.table.shape[1] - lanes.num_here
    bound_K = np.empty(len(lanes.price_sum_K))
    for k in range(len(bound_K)):
        bound_K[k] = -np.inf
    score_F, order_F = np.empty(num_fetchable), np.arange(num_fetchable)
    return Relaxation(lanes, score_F, order_F, np.empty(movable, np.int8), np.empty(5), bound_K)


@compiled
def relaxed_choice(relaxed: Relaxation, gpu_lane: int, fetches: int, y_3: FloatArray) -> float:
    """Minimum of the relaxation at weights `y_3`, over choices with `fetches` fetches (-1: any number from 1).

    Weights of the CPU, of `gpu_lane` (WORK or LATE) and of LINK. Fills all of `relaxed`, raises its bounds.
    """
    lanes, score_F, order_F, x_M, length_5, _ = relaxed
    table, num_here = lanes.table, lanes.num_here
    counts = 1.0 if gpu_lane == WORK else 0.0  # whether the experts that are here count in the lane
    here, on_cpu, work = 0.0, 0.0, 0.0
    for m in range(num_here):
        saved = y_3[1] * counts * table[GPU, m] - y_3[0] * table[CPU, m]
        x_M[m] = saved < 0
        if saved < 0:
            here += saved
            work += table[GPU, m]
            on_cpu -= table[CPU, m]
    for m in range(num_here, len(x_M)):
        x_M[m] = 0
        on_gpu = y_3[1] * table[GPU, m] + y_3[2] * table[COPY, m]
        score_F[m - num_here] = on_gpu - y_3[0] * table[CPU, m] - table[UTILITY, m]
    sort_by(score_F, order_F)
    chosen, value = number_of_fetches(relaxed, gpu_lane, fetches, y_3, here)
    start_4 = lanes.start_24[min(chosen, 1)]
    length_5[ON_CPU], length_5[WORK] = start_4[ON_CPU] + on_cpu, start_4[WORK] + work
    length_5[LATE], length_5[LINK], length_5[4] = start_4[LATE], start_4[LINK], lanes.price_sum_K[chosen]
    for k in range(chosen):
        m = num_here + order_F[k]
        x_M[m] = 1
        move_to_gpu(lanes, m, 1, length_5)
    return value


@compiled
def number_of_fetches(
    relaxed: Relaxation, gpu_lane: int, fetches: int, y_3: FloatArray, here: float
) -> tuple[int, float]:
    """Fetches of the relaxed minimiser and its value; raises the bounds for all other numbers as well.

    `here`: what the experts that are here contribute.
    """
    lanes, score_F, order_F, bound_K = relaxed.lanes, relaxed.score_F, relaxed.order_F, relaxed.bound_K
    chosen, value, total = 0, np.inf, here
    for k in range(len(lanes.price_sum_K)):
        if k < 2:
            start_4 = lanes.start_24[k]
            start = y_3[0] * start_4[ON_CPU] + y_3[1] * start_4[gpu_lane] + y_3[2] * start_4[LINK]
        if k > 0:
            total += score_F[order_F[k - 1]]
        bound = start + total + lanes.price_sum_K[k]
        bound_K[k] = max(bound_K[k], bound)
        if k == fetches or (fetches < 0 < k and bound < value):
            chosen, value = k, bound
    return chosen, value


@compiled
def equation(cut_C4: FloatArray, newest: int, index: int, row_4: FloatArray) -> None:
    """Row (coefficients of y, right-hand side) of: cut `index` as tight as the newest; or y[index - newest] = 0."""
    if index < newest:
        for i in range(3):
            row_4[i] = cut_C4[newest, i] - cut_C4[index, i]
        row_4[3] = cut_C4[index, 3] - cut_C4[newest, 3]
    else:
        for i in range(4):
            row_4[i] = 0.0
        row_4[index - newest] = 1.0


@compiled
def best_weights(cut_C4: FloatArray, newest: int, y_3: FloatArray) -> float:
    """Highest point under all cuts over the simplex: sets `y_3`, returns its height; -inf where rounding hides it.

    The newest cut is tight there (the old optimum violates it), so a vertex takes two more equations.
    """
    a, b = np.empty(4), np.empty(4)
    best = -np.inf
    for first in range(newest + 2):
        equation(cut_C4, newest, first, a)
        for second in range(first + 1, newest + 3):
            equation(cut_C4, newest, second, b)
            cross_0 = a[1] * b[2] - a[2] * b[1]
            cross_1 = a[2] * b[0] - a[0] * b[2]
            cross_2 = a[0] * b[1] - a[1] * b[0]
            det = cross_0 + cross_1 + cross_2
            if abs(det) < 1e-14:
                continue
            y0 = (a[3] * (b[1] - b[2]) + b[3] * (a[2] - a[1]) + cross_0) / det
            y1 = (a[3] * (b[2] - b[0]) + b[3] * (a[0] - a[2]) + cross_1) / det
            y2 = 1.0 - y0 - y1
            if min(y0, y1, y2) < -1e-12:
                continue
            height = y0 * cut_C4[newest, 0] + y1 * cut_C4[newest, 1] + y2 * cut_C4[newest, 2] + cut_C4[newest, 3]
            if height <= best:
                continue
            under = True
            for c in range(newest):
                other = y0 * cut_C4[c, 0] + y1 * cut_C4[c, 1] + y2 * cut_C4[c, 2] + cut_C4[c, 3]
                if height > other + ROUND:
                    under = False
                    break
            if under:
                best = height
                y_3[0], y_3[1], y_3[2] = max(y0, 0.0), max(y1, 0.0), max(y2, 0.0)
    return best
