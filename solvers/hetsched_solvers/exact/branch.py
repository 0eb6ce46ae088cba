"""The search of `exact`: bounds for every number of fetches, cells closed one by one, most promising first.

Shapes: N experts under decision, V victims, M movable experts, F fetchable, K numbers of fetches 0..K-1 (lanes.py).
A cell is one number of fetches.
"""

from __future__ import annotations

import numpy as np

from hetsched.jit import compiled
from hetsched.types import FloatArray, IntArray

from .dual import MAX_CUTS, ROUND, Relaxation, best_weights, relaxation, relaxed_choice
from .flips import flip_costs, search_flips
from .lanes import (
    COPY,
    CPU,
    GPU,
    LATE,
    LINK,
    ON_CPU,
    READY,
    UTILITY,
    WORK,
    Bits,
    Lanes,
    assign,
    longest,
    objective,
    sort_by,
)
from .polish import polish

EFFORT = 4
ANY = -1  # number of fetches: any from 1


@compiled
def simple_choice(lanes: Lanes, best_x_M: Bits) -> float:
    """Best of: the incumbent, and everything here on the GPU with the k fetches of largest gain on their own, any k."""
    table, num_here = lanes.table, lanes.num_here
    for m in range(table.shape[1]):
        best_x_M[m] = m < num_here and table[READY, m] == 0
    best = objective(lanes, best_x_M)
    x_M = np.zeros(table.shape[1], np.int8)
    for m in range(num_here):
        x_M[m] = 1
    loss_F = np.empty(table.shape[1] - num_here)
    for f in range(len(loss_F)):
        m = num_here + f
        loss_F[f] = table[COPY, m] + table[GPU, m] - table[CPU, m] - table[UTILITY, m]
    order_F = np.arange(len(loss_F))
    sort_by(loss_F, order_F)
    for k in range(len(lanes.price_sum_K)):
        if k > 0:
            x_M[num_here + order_F[k - 1]] = 1
        found = objective(lanes, x_M)
        if found < best:
            best = found
            assign(x_M, best_x_M)
    return best


@compiled
def longest_makespan(lanes: Lanes, best: float) -> float:
    """No choice with a longer makespan beats `best`: what prices and utilities can give at most, on top of it."""
    loss_F, price_sum_K = np.empty(lanes.table.shape[1] - lanes.num_here), lanes.price_sum_K
    for f in range(len(loss_F)):
        loss_F[f] = -lanes.table[UTILITY, lanes.num_here + f]
    order_F = np.arange(len(loss_F))
    sort_by(loss_F, order_F)
    for k in range(1, len(price_sum_K)):
        best -= min(0.0, price_sum_K[k] - price_sum_K[k - 1] + loss_F[order_F[k - 1]])
    return best


@compiled
def best_bound(
    relaxed: Relaxation, gpu_lane: int, fetches: int, y_3: FloatArray, best: float, best_x_M: Bits
) -> tuple[float, float]:
    """Best Lagrangian bound for `fetches` (-1: any number from 1) and the best objective met on the way.

    Starts from the weights `y_3` and leaves the best ones there. Stops when the bound reaches `best`, or when what is
    left to gain is small against the gap that the search has to close anyway.
    """
    length_5, trial_3, cut_C4 = relaxed.length_5, np.empty(3), np.empty((MAX_CUTS, 4))
    assign(y_3, trial_3)
    bound = -np.inf
    for cut in range(MAX_CUTS):
        value = relaxed_choice(relaxed, gpu_lane, fetches, trial_3)
        if value > bound:
            bound = value
            assign(trial_3, y_3)
        if longest(length_5) + length_5[4] < best:
            found = objective(relaxed.lanes, relaxed.x_M)
            if found < best:
                best = found
                assign(relaxed.x_M, best_x_M)
        cut_C4[cut, 0], cut_C4[cut, 1] = length_5[ON_CPU], length_5[gpu_lane]
        cut_C4[cut, 2], cut_C4[cut, 3] = length_5[LINK], length_5[4]
        height = best_weights(cut_C4, cut, trial_3)
        if bound >= best - ROUND or height - bound <= max(0.05 * (best - bound), ROUND):
            break
    return bound, best


@compiled
def close_cell(
    relaxed: Relaxation, gpu_lane: int, fetches: int, y_3: FloatArray, best: float, best_x_M: Bits, max_nodes: int
) -> tuple[float, int]:
    """Search one cell from its best weights; returns the best objective and the nodes used."""
    base = relaxed_choice(relaxed, gpu_lane, fetches, y_3)
    cost_M = flip_costs(relaxed, gpu_lane, fetches, y_3)
    return search_flips(relaxed, cost_M, base, best, max_nodes, best_x_M)


@compiled
def late_instead(relaxed: Relaxation, lane_K: IntArray, k: int, y_3: FloatArray, best: float, best_x_M: Bits) -> float:
    """Bound cell k with the lane LATE instead of WORK, and keep that where it is higher; the best objective met."""
    work_bound, late_3 = relaxed.bound_K[k], np.empty(3)
    assign(y_3, late_3)
    bound, best = best_bound(relaxed, LATE, k, late_3, best, best_x_M)
    if bound > work_bound:
        lane_K[k] = LATE
        assign(late_3, y_3)
    return best


@compiled
def search(lanes: Lanes, best: float, best_x_M: Bits, max_nodes: int, max_moves: int) -> tuple[float, float, int]:
    """Best objective, lower bound, nodes. Takes the cell with the lowest bound, bounds it well, then searches it.

    `max_moves`: of the local search that comes before the first cell is searched.
    """
    relaxed, num_cells = relaxation(lanes), len(lanes.price_sum_K)
    bound_K, tried_K, y_K3 = relaxed.bound_K, np.zeros(num_cells, np.int64), np.empty((num_cells, 3))
    lane_K, y_3 = np.empty(num_cells, np.int64), np.ones(3) / 3.0
    effort = 50 + EFFORT * len(best_x_M)  # nodes searched in about the time of one good bound
    if num_cells > 1:
        _, best = best_bound(relaxed, WORK, ANY, y_3, best, best_x_M)
    for k in range(num_cells):
        lane_K[k] = WORK
        assign(y_3, y_K3[k])
    nodes, cut_short, polished = effort, np.inf, max_moves == 0
    while True:
        k = int(np.argmin(bound_K))
        if bound_K[k] >= best - ROUND:
            break
        if nodes > max_nodes:
            cut_short = min(cut_short, bound_K[k])
            break
        nodes += effort
        tried_K[k] += 1
        if tried_K[k] == 1:
            _, best = best_bound(relaxed, lane_K[k], k, y_K3[k], best, best_x_M)
        elif tried_K[k] == 2:
            best = late_instead(relaxed, lane_K, k, y_K3[k], best, best_x_M)
        elif not polished:
            best, polished = polish(lanes, best, best_x_M, max_moves), True
        else:
            left = (max_nodes - nodes) // 4 + 1  # a cell that takes more must not keep the others from being tried
            best, used = close_cell(relaxed, lane_K[k], k, y_K3[k], best, best_x_M, left)
            nodes += used
            if used > left:
                cut_short = min(cut_short, bound_K[k])
            bound_K[k] = np.inf
    return best, min(cut_short, best), nodes
