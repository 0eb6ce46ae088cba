"""Local search on a good choice: flips and exchanges, while the objective or the lanes behind it get shorter.

Shapes: M movable experts (lanes.py).
"""

from __future__ import annotations

import numpy as np

from hetsched.jit import compiled
from hetsched.types import FloatArray

from .lanes import Bits, Lanes, assign, move_to_gpu, objective

SIDEWAYS = 1e-3  # worth of shorter lanes that are not the longest: it leads across plateaus, which ties make


@compiled
def merit(lanes: Lanes, length_5: FloatArray, fetches: int) -> float:
    """Relaxed objective plus a little of every lane. `length_5`: sums over the movable experts, without the starts."""
    if fetches >= len(lanes.price_sum_K):
        return float(np.inf)
    start_4 = lanes.start_24[min(fetches, 1)]
    makespan, total = 0.0, 0.0
    for lane in range(4):
        makespan = max(makespan, start_4[lane] + length_5[lane])
        total += length_5[lane]
    return float(makespan + length_5[4] + lanes.price_sum_K[fetches] + SIDEWAYS * total)


@compiled
def polish(lanes: Lanes, best: float, best_x_M: Bits, max_moves: int) -> float:
    """Improve `best_x_M` in place; returns its objective. One move takes time quadratic in the number of experts."""
    movable = len(best_x_M)
    x_M = np.empty(movable, np.int8)
    assign(best_x_M, x_M)
    length_5, after_5 = np.zeros(5), np.empty(5)
    fetches = 0
    for m in range(movable):
        if x_M[m] == 1:
            fetches += move_to_gpu(lanes, m, 1, length_5)
    reached = merit(lanes, length_5, fetches)
    for _ in range(max_moves):
        chosen_a, chosen_b, lowest = -1, -1, reached - 1e-9
        for a in range(movable):
            assign(length_5, after_5)
            count = fetches + move_to_gpu(lanes, a, 1 - 2 * x_M[a], after_5)
            found = merit(lanes, after_5, count)
            if found < lowest:
                chosen_a, chosen_b, lowest = a, -1, found
            for b in range(a + 1, movable):
                if x_M[a] == x_M[b]:
                    continue
                change = move_to_gpu(lanes, b, 1 - 2 * x_M[b], after_5)
                found = merit(lanes, after_5, count + change)
                if found < lowest:
                    chosen_a, chosen_b, lowest = a, b, found
                move_to_gpu(lanes, b, 2 * x_M[b] - 1, after_5)
        if chosen_a < 0:
            break
        reached = lowest
        fetches += move_to_gpu(lanes, chosen_a, 1 - 2 * x_M[chosen_a], length_5)
        x_M[chosen_a] = 1 - x_M[chosen_a]
        if chosen_b >= 0:
            fetches += move_to_gpu(lanes, chosen_b, 1 - 2 * x_M[chosen_b], length_5)
            x_M[chosen_b] = 1 - x_M[chosen_b]
        found = objective(lanes, x_M)
        if found < best:
            best = found
            assign(x_M, best_x_M)
    return best
