"""Kernels of caches that fetch every miss: what a layer's visit asks for, and who gives way. Rules build on these.

Shapes: F all experts flat (layer * E + expert), G regions that share slots (one, or one a layer), R visits of layers in
order, N active experts of a visit. The same kernels serve one layer in a running model and whole traces in a replay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..jit import compiled
from ..types import IntArray

Kernel: TypeAlias = Callable[[Any, "Slots", "Visits"], None]

SOURCES = ("hetsched.policies.on_demand_kernels", "hetsched.policies.queues")  # whose stamp a kept rule holds
ABSENT, RESIDENT = 0, 2
VISIT, PASS, LAYER = range(3)  # places in Slots.at


class Slots(NamedTuple):
    """Residency as the kernels see it, and where in the run they are.

    `state_F` as in residency.State. `busy_F`: visit that last asked for an expert. `capacity_G`, `used_G`: slots of a
    region. `held_F`: region g's experts are the first used_G[g] from g * span on; `where_F`: their places in it.
    `span`: experts of a region, which is one layer or all. `experts`: of a layer. `at`: visits so far, passes over the
    model so far, layer of the last visit.
    """

    state_F: npt.NDArray[np.uint8]
    busy_F: IntArray
    capacity_G: IntArray
    used_G: IntArray
    held_F: IntArray
    where_F: IntArray
    span: int
    experts: int
    at: IntArray


class Visits(NamedTuple):
    """Visits to serve, and what came of them.

    `flat_RN`: active experts of each visit, ascending. `hits_R`, `fetched_R`, `evicted_R`: counts. `new_N`, `victim_N`:
    what the last visit fetched, and for each whose place it took (-1: a free one). `lowest_N`: scratch.
    `num_tokens`: in each step.
    """

    flat_RN: IntArray
    hits_R: IntArray
    fetched_R: IntArray
    evicted_R: IntArray
    new_N: IntArray
    victim_N: IntArray
    lowest_N: IntArray
    num_tokens: int


def capacity_of(num_slots: int, regions: int) -> IntArray:
    """Equal shares of `num_slots`, and one more for the first regions while any are left."""
    share, left = divmod(num_slots, regions)
    capacity_G: IntArray = np.full(regions, share, np.int64)
    capacity_G[:left] += 1
    return capacity_G


def slots_of(num_layers: int, num_experts: int, num_slots: int, per_layer: bool) -> Slots:
    """An empty cache of `num_slots`; per layer, equal shares, and one more for the first layers while any are left."""
    flat = num_layers * num_experts
    capacity_G = capacity_of(num_slots, num_layers if per_layer else 1)
    at = np.array([0, -1, num_layers], np.int64)
    busy_F, held_F, where_F = (np.zeros(flat, np.int64) for _ in range(3))
    span, used_G = num_experts if per_layer else flat, np.zeros_like(capacity_G)
    return Slots(np.zeros(flat, np.uint8), busy_F, capacity_G, used_G, held_F, where_F, span, num_experts, at)


@compiled
def take_stock(slots: Slots) -> None:
    """List who holds the slots, from `state_F`."""
    slots.used_G[:] = 0
    for f in range(len(slots.state_F)):
        if slots.state_F[f] != ABSENT:
            _hold(slots, f)


@compiled
def _hold(slots: Slots, f: int) -> None:
    region = f // slots.span
    slots.where_F[f] = region * slots.span + slots.used_G[region]
    slots.held_F[slots.where_F[f]] = f
    slots.used_G[region] += 1


@compiled
def begin(slots: Slots, visits: Visits, r: int) -> int:
    """Begin visit r: count hits, list misses in `new_N`, protect what is active; how many misses."""
    active_N = visits.flat_RN[r]
    layer = active_N[0] // slots.experts
    if layer <= slots.at[LAYER]:
        slots.at[PASS] += 1
    slots.at[LAYER] = layer
    slots.at[VISIT] += 1
    missing = 0
    for f in active_N:
        slots.busy_F[f] = slots.at[VISIT]
        if slots.state_F[f] >= RESIDENT:
            visits.hits_R[r] += 1
        elif slots.state_F[f] == ABSENT:
            visits.new_N[missing] = f
            missing += 1
    return missing


@compiled
def region_of(slots: Slots, f: int) -> int:
    """Region whose slots an expert may take."""
    return f // slots.span


@compiled
def free_places(slots: Slots, region: int) -> int:
    """Slots of a region that nobody holds."""
    return max(0, int(slots.capacity_G[region] - slots.used_G[region]))


@compiled
def may_leave(slots: Slots, f: int) -> bool:
    """Whether an expert may be a victim: wholly there and not active in this visit."""
    return bool(slots.state_F[f] == RESIDENT and slots.busy_F[f] != slots.at[VISIT])


@compiled
def lowest(slots: Slots, visits: Visits, region: int, key_F: Any, tie_F: IntArray, wanted: int) -> int:
    """Fill `lowest_N` with the experts that may leave, least (key, tie, id) first; how many, `wanted` at most."""
    state_F, busy_F, held_F, visit = slots.state_F, slots.busy_F, slots.held_F, slots.at[VISIT]
    low_N, found, begin_at = visits.lowest_N, 0, region * slots.span
    for place in range(begin_at, begin_at + slots.used_G[region] if wanted else begin_at):
        f = held_F[place]
        i = found
        if i == wanted and key_F[f] > key_F[low_N[i - 1]]:
            continue
        if state_F[f] != RESIDENT or busy_F[f] == visit:
            continue
        while i > 0:
            g = low_N[i - 1]
            if key_F[f] > key_F[g] or (key_F[f] == key_F[g] and (tie_F[f], f) > (tie_F[g], g)):
                break
            if i < wanted:
                low_N[i] = g
            i -= 1
        if i < wanted:
            low_N[i] = f
            found = min(found + 1, wanted)
    return found


@compiled
def highest_first(new_N: IntArray, missing: int, key_F: Any, tie_F: Any) -> None:
    """Order a visit's misses by falling (key, tie), equals as they were."""
    for i in range(1, missing):
        f, place = new_N[i], i
        while place > 0 and is_higher(key_F, tie_F, f, new_N[place - 1]):
            new_N[place] = new_N[place - 1]
            place -= 1
        new_N[place] = f


@compiled
def is_higher(key_F: Any, tie_F: Any, f: int, other: int) -> bool:
    """Whether f has the higher key, or the same and the higher tie."""
    return bool(key_F[f] > key_F[other] or (key_F[f] == key_F[other] and tie_F[f] > tie_F[other]))


@compiled
def fetch(slots: Slots, visits: Visits, r: int, f: int, victim: int) -> None:
    """Fetch one miss into the place of `victim` (-1: a free one)."""
    i = visits.fetched_R[r]
    visits.new_N[i], visits.victim_N[i] = f, victim
    visits.fetched_R[r] += 1
    slots.state_F[f] = RESIDENT
    if victim < 0:
        _hold(slots, f)
    else:
        slots.state_F[victim] = ABSENT
        slots.where_F[f] = slots.where_F[victim]
        slots.held_F[slots.where_F[f]] = f
        visits.evicted_R[r] += 1


@compiled
def replace_lowest(slots: Slots, visits: Visits, r: int, missing: int, key_F: Any, tie_F: IntArray) -> int:
    """Fetch the misses of visit r, into free slots and then those of the least (key, tie, id); how many fitted."""
    if missing == 0:
        return 0
    region = region_of(slots, visits.new_N[0])
    free = min(free_places(slots, region), missing)
    found = lowest(slots, visits, region, key_F, tie_F, missing - free)
    for i in range(free + found):
        fetch(slots, visits, r, visits.new_N[i], -1 if i < free else visits.lowest_N[i - free])
    return free + found
