"""Exhaustive search around a relaxed choice: every set of flips that the Lagrangian bound cannot exclude.

Shapes: M movable experts (lanes.py), D those worth flipping, by ascending cost. For one number of fetches and one
vector of weights, flipping expert i away from the relaxed minimiser raises the relaxation by d_i >= 0, and the rises
add up: a choice better than the best known has a sum of d below the gap. The search lists exactly those choices, each
once. Experts equal in every time are interchangeable: they flip in the order of their utilities.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hetsched.jit import compiled
from hetsched.types import BoolArray, FloatArray, IntArray

from .dual import ROUND, Relaxation
from .lanes import COPY, CPU, GPU, READY, WORK, Bits, Lanes, assign, longest, move_to_gpu, objective, sort_by

SKIPS = 8  # in about the time of a flip


class Flips(NamedTuple):
    """Flips by ascending cost: experts `flip_D`, `cost_D`, and `before_D` (see predecessors).

    And the set of them that is being tried, a path of `depth` flips: their places `stack`; by depth, what it costs
    (`rise`), fetches added less fetches dropped (`surplus`), lengths of the lanes and prices (`length`); `flipped_D`,
    `trial_M`.
    """

    flip_D: IntArray
    cost_D: FloatArray
    before_D: IntArray
    stack: IntArray
    rise: FloatArray
    surplus: IntArray
    length: FloatArray
    flipped_D: BoolArray
    trial_M: Bits


@compiled
def flip_costs(relaxed: Relaxation, gpu_lane: int, fetches: int, y_3: FloatArray) -> FloatArray:
    """Cost d_M >= 0 of flipping each expert away from the minimiser with `fetches` fetches."""
    lanes, score_F, order_F = relaxed.lanes, relaxed.score_F, relaxed.order_F
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
def worthwhile_flips(relaxed: Relaxation, cost_M: FloatArray, spare: float) -> Flips:
    """The flips that cost less than `spare`, and an empty path."""
    x_M, order_M = relaxed.x_M, np.arange(len(cost_M))
    sort_by(cost_M, order_M)
    count = 0
    while count < len(order_M) and cost_M[order_M[count]] < spare:
        count += 1
    flip_D, cost_D = order_M[:count], np.empty(count)
    for d in range(count):
        cost_D[d] = cost_M[flip_D[d]]
    length, trial_M = np.empty((count + 1, 5)), np.empty(len(x_M), np.int8)
    assign(relaxed.length_5, length[0])
    assign(x_M, trial_M)
    before_D, flipped_D = predecessors(relaxed.lanes, flip_D, x_M), np.zeros(count, np.bool_)
    stack, surplus = np.empty(count + 1, np.int64), np.zeros(count + 1, np.int64)
    return Flips(flip_D, cost_D, before_D, stack, np.zeros(count + 1), surplus, length, flipped_D, trial_M)


@compiled
def leads_nowhere(flips: Flips, depth: int, d: int, surplus: int, spare: float) -> bool:
    """Whether flip d need not be tried now: its equal was not, or the fetches cannot be balanced within `spare`."""
    if surplus != 0:
        next_cost = flips.cost_D[d + 1] if d + 1 < len(flips.cost_D) else np.inf
        if flips.rise[depth] + flips.cost_D[d] + abs(surplus) * next_cost >= spare:
            return True
    return bool(flips.before_D[d] >= 0 and not flips.flipped_D[flips.before_D[d]])


@compiled
def push(flips: Flips, lanes: Lanes, depth: int, d: int, surplus: int) -> None:
    """Flip d on top of a path of `depth` flips."""
    m = flips.flip_D[d]
    flips.stack[depth] = d
    flips.flipped_D[d] = True
    flips.rise[depth + 1], flips.surplus[depth + 1] = flips.rise[depth] + flips.cost_D[d], surplus
    assign(flips.length[depth], flips.length[depth + 1])
    move_to_gpu(lanes, m, 1 - 2 * flips.trial_M[m], flips.length[depth + 1])
    flips.trial_M[m] = 1 - flips.trial_M[m]


@compiled
def search_flips(
    relaxed: Relaxation, cost_M: FloatArray, base: float, best: float, max_nodes: int, best_x_M: Bits
) -> tuple[float, int]:
    """Best objective after trying every set of flips that keeps the number of fetches and may beat `best`.

    `base`: the relaxation's value, from whose minimiser flips start. Updates `best_x_M`. Also returns the sets tried; a
    number above `max_nodes` means that the search was cut short and proves nothing.
    """
    lanes, spare = relaxed.lanes, best - base - ROUND
    flips = worthwhile_flips(relaxed, cost_M, spare)
    flip_D, trial_M = flips.flip_D, flips.trial_M
    depth, d, nodes, skipped = 0, 0, len(trial_M) // 2, 0
    while True:
        if d < len(flip_D) and flips.rise[depth] + flips.cost_D[d] < spare:
            m = flip_D[d]
            sign = 1 - 2 * trial_M[m]
            surplus = flips.surplus[depth] + (sign if m >= lanes.num_here else 0)
            if leads_nowhere(flips, depth, d, surplus, spare):
                d += 1
                skipped += 1
                nodes += skipped % SKIPS == 0
                continue
            nodes += 1
            if nodes > max_nodes:
                break
            push(flips, lanes, depth, d, surplus)
            depth += 1
            d += 1
            if surplus == 0 and longest(flips.length[depth]) + flips.length[depth, 4] < best - ROUND:
                nodes += len(trial_M) // 8  # about as long as so many flips
                found = objective(lanes, trial_M)
                if found < best:
                    best, spare = found, found - base - ROUND
                    assign(trial_M, best_x_M)
        elif depth == 0:
            break
        else:
            depth -= 1
            d = flips.stack[depth]
            flips.flipped_D[d] = False
            trial_M[flip_D[d]] = 1 - trial_M[flip_D[d]]
            d += 1
    return best, nodes
