"""Kernel of hetsched's own policy: which absent experts should take whose places, while the link has time.

Shapes: L layers, E experts, N active experts of the layer, W swaps at most.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..jit import compiled, compiled_and_kept
from ..types import FloatArray, IntArray

ABSENT, COPYING, RESIDENT = 0, 1, 2  # as in residency.py; kernels take literal numbers


# Places in `now`, seconds unless said otherwise: the layer's number, free slots, tokens in a step; copies already
# waiting; no copy is added behind more than LIMIT; a layer; what is left of this one; what one hit saves; weight of
# demand after the next visit; one copy; gain below which none is; a layer's part before its router speaks.
LAYER, FREE, TOKENS, BACKLOG, LIMIT, LAYER_S, LEFT, SAVING, LATER, COPY, WORTH, DENSE = range(12)
NEW, VICTIM, GAIN = range(3)  # rows of `swaps_3W`


@compiled
def _listed(values: IntArray | FloatArray, count: int, wanted: int) -> bool:
    found = False
    for i in range(count):
        found = found or values[i] == wanted
    return found


@compiled_and_kept
def choose_swaps(
    next_LE: FloatArray,
    demand_LE: FloatArray,
    state_LE: npt.NDArray[np.uint8],
    active_N: IntArray,
    now: FloatArray,
    utility_LE: FloatArray,
    swaps_3W: FloatArray,
) -> tuple[int, float]:
    """Fill `utility_LE` and the swaps, best first; returns how many, and the lowest price of a place.

    A swap's gain is utility(new) - utility(victim); where the copy would miss the next visit of the newcomer's layer,
    that visit does not count. Experts are numbered layer * E + expert; a victim of -1 is a free slot.
    """
    layers, num_experts = next_LE.shape
    this_layer, saving_s, later, copy_s = int(now[LAYER]), now[SAVING], now[LATER], now[COPY]
    lowest_s = np.inf if now[FREE] == 0 else 0.0
    is_active_E = np.zeros(num_experts, np.bool_)
    is_active_E[active_N] = True
    for l in range(layers):
        for e in range(num_experts):
            soon, often = min(next_LE[l, e], 1.0), min(demand_LE[l, e], 1.0)
            if now[TOKENS] > 1:
                soon, often = 1.0 - (1.0 - soon) ** now[TOKENS], 1.0 - (1.0 - often) ** now[TOKENS]
            utility_LE[l, e] = saving_s * (soon + later * often)
            if state_LE[l, e] == COPYING or state_LE[l, e] == RESIDENT:
                lowest_s = min(lowest_s, utility_LE[l, e])
    count, free, backlog_s = 0, now[FREE], now[BACKLOG]
    while count < swaps_3W.shape[1] and backlog_s <= now[LIMIT]:
        late_layers = 1 + int((backlog_s + copy_s - now[LEFT] - now[DENSE]) / now[LAYER_S])
        best, best_s, worst, worst_s = -1, -1.0, -1, np.inf
        for l in range(layers):
            late = (l - this_layer if l > this_layer else l - this_layer + layers) < late_layers
            for e in range(num_experts):
                if l == this_layer and is_active_E[e]:
                    continue  # no victim while it works, and no newcomer: it is there, or was thought not worth it
                f, worth_s = l * num_experts + e, utility_LE[l, e]
                if state_LE[l, e] == ABSENT:
                    if late:
                        worth_s = saving_s * later * min(demand_LE[l, e], 1.0)
                    if worth_s > best_s and not _listed(swaps_3W[NEW], count, f):
                        best, best_s = f, worth_s
                elif state_LE[l, e] == RESIDENT and worth_s < worst_s and not _listed(swaps_3W[VICTIM], count, f):
                    worst, worst_s = f, worth_s
        if free > 0:
            worst, worst_s = -1, 0.0
        elif worst < 0:
            break
        if best < 0 or best_s - worst_s <= now[WORTH]:
            break
        swaps_3W[NEW, count], swaps_3W[VICTIM, count], swaps_3W[GAIN, count] = best, worst, best_s - worst_s
        count += 1
        free -= 1
        backlog_s += copy_s
    return count, lowest_s
