"""sieve: a queue in order of fetching, and a hand that looks for what was not used since it last came by.

Zhang et al., "SIEVE is Simpler than LRU" (NSDI 2024), algorithm 1. A hit sets an expert's bit and moves nothing. On a
miss the hand goes from the oldest towards the newest, clears bits, and stops at the first clear one: that one leaves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import compiled, compiled_and_kept, source_stamp
from ..policy import Setting
from ..types import IntArray
from .on_demand import OnDemand
from .on_demand_kernels import (
    ABSENT,
    RESIDENT,
    SOURCES,
    Kernel,
    Slots,
    Visits,
    begin,
    fetch,
    free_places,
    may_leave,
    region_of,
)
from .queues import Queues, empty_queues, push, unlink


class Sieve(NamedTuple):
    """One queue per region; `visited_F`: the bit; `hand_G`: where the hand of a region is, -1 for the oldest."""

    queues: Queues
    visited_F: IntArray
    hand_G: IntArray


@compiled
def _victim(rule: Sieve, slots: Slots, region: int) -> int:
    """Whom the hand stops at, -1 for nobody. It passes by experts that this visit asks for."""
    queues = rule.queues
    for _ in range(2 * queues.size_Q[region] + 1):  # one round clears every bit, the next finds a clear one
        f = rule.hand_G[region]
        if f < 0:
            f = queues.oldest_Q[region]
        if f < 0:
            return -1
        rule.hand_G[region] = queues.newer_F[f]
        if slots.state_F[f] == ABSENT:  # its copy failed
            unlink(queues, f)
        elif rule.visited_F[f]:
            rule.visited_F[f] = 0
        elif may_leave(slots, f):
            unlink(queues, f)
            return int(f)
    return -1


def _kernel(stamp: int) -> Kernel:
    @compiled_and_kept
    def serve(rule: Sieve, slots: Slots, visits: Visits) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        for r in range(len(visits.flat_RN)):
            missing = begin(slots, visits, r)
            for f in visits.flat_RN[r]:
                if slots.state_F[f] >= RESIDENT:
                    rule.visited_F[f] = 1
            region = region_of(slots, visits.flat_RN[r, 0])
            free = free_places(slots, region) if missing else 0
            for i in range(missing):
                new = visits.new_N[i]
                victim = -1 if i < free else _victim(rule, slots, region)
                if i >= free and victim < 0:
                    break
                if rule.hand_G[region] == new:  # in the queue still, since its copy failed
                    rule.hand_G[region] = rule.queues.newer_F[new]
                push(rule.queues, region, new)
                rule.visited_F[new] = 0
                fetch(slots, visits, r, new, victim)

    return serve


class SieveCache(OnDemand):
    """SIEVE."""

    name = "sieve"
    serve = staticmethod(_kernel(source_stamp(*SOURCES)))

    def rule(self, setting: Setting, slots: Slots) -> Sieve:
        """Empty queues, hands at the oldest."""
        regions = len(slots.capacity_G)
        return Sieve(empty_queues(len(slots.state_F), regions), np.zeros_like(slots.busy_F), np.full(regions, -1))
