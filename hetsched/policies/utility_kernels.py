"""Kernel of hetsched's own policy: which absent experts should take whose places, while the link has time.

One call looks at the layers whose forecast or residency has changed since the last, and at the best and the worst of
every other: utilities follow from forecasts alone, and a layer teaches only about itself and a few layers after it.

Shapes: L layers, E experts, N active experts of the layer, W swaps at most.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..board import ABSENT, RESIDENT
from ..jit import compiled_lean
from ..types import BoolArray, FloatArray, IntArray

# Places in `now`, seconds unless said otherwise: the layer's number, free slots, tokens in a step; copies already
# waiting; no copy is added behind more than LIMIT; a layer; what is left of this one; what one hit saves; weight of
# demand after the next visit; one copy; gain below which none is; a layer's part before its router speaks.
LAYER, FREE, TOKENS, BACKLOG, LIMIT, LAYER_S, LEFT, SAVING, LATER, COPY, WORTH, DENSE = range(12)
NEW, VICTIM, GAIN = range(3)  # rows of `swaps_3W`
BEST, BEST_S, WORST, WORST_S = range(4)  # rows of `top_4L`: experts by number, seconds


class UtilityState(NamedTuple):
    """What is kept between calls.

    `utility_LE` seconds saved; `top_4L` of each layer; `state_LE` and `for_3` (tokens in a step, weight of demand after
    the next visit, seconds that one hit saves) that they were made for; `stale_L`: layers whose forecast has changed
    since. `barred_E`: scratch.
    """

    utility_LE: FloatArray
    top_4L: FloatArray
    state_LE: npt.NDArray[np.uint8]
    for_3: FloatArray
    stale_L: BoolArray
    barred_E: BoolArray


def empty_state(layers: int, experts: int) -> UtilityState:
    """The beginning: every layer is stale."""
    return UtilityState(
        utility_LE=np.zeros((layers, experts)),
        top_4L=np.zeros((4, layers)),
        state_LE=np.zeros((layers, experts), np.uint8),
        for_3=np.zeros(3),
        stale_L=np.ones(layers, np.bool_),
        barred_E=np.zeros(experts, np.bool_),
    )


@compiled_lean
def _renew(known: UtilityState, l: int, soon_E: FloatArray, often_E: FloatArray) -> None:
    """One layer's utilities from its forecasts, and its best absent and worst resident expert."""
    tokens, later, saving_s = known.for_3
    utility_E, state_E = known.utility_LE[l], known.state_LE[l]
    best, best_s, worst, worst_s = -1, -1.0, -1, np.inf
    for e in range(len(utility_E)):
        soon, often = min(soon_E[e], 1.0), min(often_E[e], 1.0)
        if tokens > 1:
            soon, often = 1.0 - (1.0 - soon) ** tokens, 1.0 - (1.0 - often) ** tokens
        worth_s = saving_s * (soon + later * often)
        utility_E[e] = worth_s
        if state_E[e] == ABSENT:
            if worth_s > best_s:
                best, best_s = e, worth_s
            continue
        if state_E[e] == RESIDENT and worth_s < worst_s:
            worst, worst_s = e, worth_s
    known.top_4L[BEST, l], known.top_4L[BEST_S, l] = best, best_s
    known.top_4L[WORST, l], known.top_4L[WORST_S, l] = worst, worst_s


@compiled_lean
def _look(
    known: UtilityState, l: int, barred_E: BoolArray, often_E: FloatArray, late: bool, saving_s: float
) -> tuple[int, float, int, float]:
    """Best absent and worst resident expert of a layer and their worth, without those barred.

    `late`: no copy ends before the layer's next visit, so that a newcomer is worth only what comes after.
    """
    later = known.for_3[1]
    best, best_s, worst, worst_s = -1, -1.0, -1, np.inf
    for e in range(len(barred_E)):
        if barred_E[e]:
            continue
        worth_s = known.utility_LE[l, e]
        if known.state_LE[l, e] == ABSENT:
            if late:
                worth_s = saving_s * later * min(often_E[e], 1.0)
            if worth_s > best_s:
                best, best_s = e, worth_s
        elif known.state_LE[l, e] == RESIDENT and worth_s < worst_s:
            worst, worst_s = e, worth_s
    return best, best_s, worst, worst_s


@compiled_lean
def _bring_up_to_date(
    known: UtilityState,
    next_LE: FloatArray,
    demand_LE: FloatArray,
    state_LE: npt.NDArray[np.uint8],
    now: FloatArray,
) -> None:
    """Renew the layers that changed since they were last looked at."""
    for_3 = known.for_3
    is_new = for_3[0] != now[TOKENS] or for_3[1] != now[LATER] or for_3[2] != now[SAVING]
    for_3[0], for_3[1], for_3[2] = now[TOKENS], now[LATER], now[SAVING]
    for l in range(len(state_LE)):
        same = True
        for e in range(state_LE.shape[1]):
            same &= known.state_LE[l, e] == state_LE[l, e]
        if is_new or known.stale_L[l] or not same:
            for e in range(state_LE.shape[1]):
                known.state_LE[l, e] = state_LE[l, e]
            _renew(known, l, next_LE[l], demand_LE[l])
            known.stale_L[l] = False


@compiled_lean
def _bar(barred_E: BoolArray, l: int, this_layer: int, active_N: IntArray, swaps_3W: FloatArray, count: int) -> bool:
    """Mark the experts of a layer that are no newcomers and no victims; whether there are any."""
    found = l == this_layer
    for i in range(count):
        for row in (NEW, VICTIM):
            found |= int(swaps_3W[row, i]) // len(barred_E) == l  # a free slot, -1, is in no layer
    if not found:
        return False
    barred_E[:] = False
    if l == this_layer:  # what works is no victim; and no newcomer: it is there, or was thought not worth it
        for i in range(len(active_N)):
            barred_E[active_N[i]] = True
    for i in range(count):
        for row in (NEW, VICTIM):
            f = int(swaps_3W[row, i])
            if f // len(barred_E) == l:
                barred_E[f % len(barred_E)] = True
    return True


@compiled_lean
def choose_swaps(
    known: UtilityState,
    next_LE: FloatArray,
    demand_LE: FloatArray,
    state_LE: npt.NDArray[np.uint8],
    active_N: IntArray,
    now: FloatArray,
    swaps_3W: FloatArray,
) -> int:
    """Bring what is known up to date and fill in the swaps, best first; how many.

    A swap's gain is utility(new) - utility(victim); where the copy
    would miss the next visit of the newcomer's layer, that visit does not count. Experts are numbered
    layer * E + expert; a victim of -1 is a free slot.
    """
    layers, num_experts = next_LE.shape
    top_4L = known.top_4L
    this_layer, saving_s, copy_s = int(now[LAYER]), now[SAVING], now[COPY]
    _bring_up_to_date(known, next_LE, demand_LE, state_LE, now)
    barred_E = known.barred_E
    count, free, backlog_s = 0, now[FREE], now[BACKLOG]
    while count < swaps_3W.shape[1] and backlog_s <= now[LIMIT]:
        late_layers = 1 + int((backlog_s + copy_s - now[LEFT] - now[DENSE]) / now[LAYER_S])
        best, best_s, worst, worst_s = -1, -1.0, -1, np.inf
        for l in range(layers):
            late = (l - this_layer if l > this_layer else l - this_layer + layers) < late_layers
            if _bar(barred_E, l, this_layer, active_N, swaps_3W, count) or late:
                new, new_s, victim, victim_s = _look(known, l, barred_E, demand_LE[l], late, saving_s)
            else:
                new, new_s, victim, victim_s = (
                    int(top_4L[BEST, l]),
                    top_4L[BEST_S, l],
                    int(top_4L[WORST, l]),
                    top_4L[WORST_S, l],
                )
            if new_s > best_s:
                best, best_s = l * num_experts + new, new_s
            if victim_s < worst_s:
                worst, worst_s = l * num_experts + victim, victim_s
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
    return count
