"""Exhaustive search around a relaxed choice: every set of flips that the Lagrangian bound cannot exclude.

Shapes: M movable experts (lanes.py), D those worth flipping, by ascending cost. For one number of fetches and one
vector of weights, flipping expert i away from the relaxed minimiser raises the relaxation by d_i >= 0, and the rises
add up: a choice better than the best known has a sum of d below the gap. The search lists exactly those choices, each
once. Experts equal in every time are interchangeable: they flip in the order of their utilities.
"""

from __future__ import annotations

import numpy as np

from hetsched.types import FloatArray, IntArray

from .dual import ROUND
from .jit import compiled
from .lanes import COPY, CPU, GPU, READY, WORK, Bits, Lanes, assign, longest, move_to_gpu, objective, sort_by


@compiled
def flip_costs(
    lanes: Lanes, gpu_lane: int, y_3: FloatArray, fetches: int, score_F: FloatArray, order_F: IntArray
) -> FloatArray:
    """Cost d_M >= 0 of flipping each expert away from the minimiser with `fetches` fetches."""
    table, num_here = lanes.table, lanes.num_here
    cost_M = np.empty(table.shape[1])
    for m in range(num_here):
        work = table[GPU, m] if gpu_lane == WORK else 0.0
        cost_M[m] = abs(y_3[1] * work - y_3[0] * table[CPU, m])
    num_fetchable = len(score_F)
    if num_fetchable == 0:
        return cost_M
    # any threshold between the last score taken and the first one left gives valid costs; halfway, both sides count
    low = score_F[order_F[max(fetches - 1, 0)]]
    high = score_F[order_F[min(fetches, num_fetchable - 1)]]
    if fetches == 0 or fetches == num_fetchable:
        low = high = -np.inf if fetches == 0 else np.inf
    threshold = (low + high) / 2
    for f in range(num_fetchable):
        cost_M[num_here + f] = abs(score_F[f] - threshold)
    return cost_M


@compiled
def equal_times(lanes: Lanes, a: int, b: int) -> bool:
    """Whether two movable experts differ at most in utility."""
    table, num_here = lanes.table, lanes.num_here
    return (
        (a < num_here) == (b < num_here)
        and table[GPU, a] == table[GPU, b]
        and table[CPU, a] == table[CPU, b]
        and table[COPY, a] == table[COPY, b]
        and table[READY, a] == table[READY, b]
    )


@compiled
def predecessors(lanes: Lanes, flip_D: IntArray, x_M: Bits) -> IntArray:
    """For each flip the nearest earlier one of an interchangeable expert in the same direction; -1 for none."""
    before_D = np.empty(len(flip_D), np.int64)
    for d in range(len(flip_D)):
        before_D[d] = -1
        for e in range(d - 1, -1, -1):
            a, b = flip_D[d], flip_D[e]
            if x_M[a] == x_M[b] and equal_times(lanes, a, b):
                before_D[d] = e
                break
    return before_D


@compiled
def search_flips(
    lanes: Lanes,
    x_M: Bits,
    length_5: FloatArray,
    cost_M: FloatArray,
    base: float,
    best: float,
    tolerance: float,
    max_nodes: int,
    best_x_M: Bits,
) -> tuple[float, int]:
    """Best objective after trying every set of flips of `x_M` that keeps its number of fetches and may beat `best`.

    `base`: the relaxation at `x_M`, `length_5` its lanes' lengths and prices. Updates `best_x_M`. Also
    returns the sets tried; a number above `max_nodes` means that the search was cut short and proves nothing.
    """
    num_here = lanes.num_here
    flip_D = np.arange(len(cost_M))
    sort_by(cost_M, flip_D)
    count = 0
    while count < len(flip_D) and base + cost_M[flip_D[count]] < best - tolerance:
        count += 1
    flip_D = flip_D[:count]
    before_D = predecessors(lanes, flip_D, x_M)
    flipped_D = np.zeros(count, np.bool_)
    stack = np.empty(count + 1, np.int64)
    rise = np.zeros(count + 1)  # of the relaxation, by depth
    surplus = np.zeros(count + 1, np.int64)  # fetches added less fetches dropped
    length = np.empty((count + 1, 5))  # of the four lanes, and prices
    assign(length_5, length[0])
    trial_M = np.empty(len(x_M), np.int8)
    assign(x_M, trial_M)
    depth, d, nodes = 0, 0, 0
    while True:
        if d < count and base + rise[depth] + cost_M[flip_D[d]] < best - tolerance:
            m = flip_D[d]
            sign = 1 - 2 * x_M[m]
            open_fetches = surplus[depth] + (sign if m >= num_here else 0)
            total = rise[depth] + cost_M[m]
            next_cost = cost_M[flip_D[d + 1]] if d + 1 < count else np.inf
            wasted = open_fetches != 0 and base + total + abs(open_fetches) * next_cost >= best - tolerance
            if wasted or (before_D[d] >= 0 and not flipped_D[before_D[d]]):
                d += 1
                continue
            nodes += 1
            if nodes > max_nodes:
                break
            stack[depth] = d
            flipped_D[d] = True
            trial_M[m] = 1 - x_M[m]
            up = depth
            depth += 1
            rise[depth], surplus[depth] = total, open_fetches
            assign(length[up], length[depth])
            move_to_gpu(lanes, m, sign, length[depth])
            d += 1
            if open_fetches == 0:
                relaxed = longest(length[depth]) + length[depth, 4]
                if relaxed < best - ROUND:
                    nodes += len(trial_M) // 8  # about as long as so many flips
                    found = objective(lanes, trial_M)
                    if found < best:
                        best = found
                        assign(trial_M, best_x_M)
        elif depth == 0:
            break
        else:
            depth -= 1
            d = stack[depth]
            flipped_D[d] = False
            trial_M[flip_D[d]] = x_M[flip_D[d]]
            d += 1
    return best, nodes
