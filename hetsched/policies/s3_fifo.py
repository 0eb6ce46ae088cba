"""s3-fifo: a small queue that sorts out what is used once, a main queue, and a memory of what was sorted out.

Yang et al., "FIFO queues are all you need for cache eviction" (SOSP 2023), algorithm 1. New experts enter the small
queue (a tenth of the slots), or the main queue if they are remembered. While the small queue holds its tenth,
its oldest member goes: to the main queue if it was used more than once since, else out of the cache and into memory.
Otherwise the oldest of the main queue goes, unless it was used: then it stays as the newest, one use less. Uses are
counted up to 3 and forgotten on the way to the main queue. Memory is as long as the main queue.
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

SMALL, MAIN, MEMORY, KINDS = 0, 1, 2, 3
MOST_USES = 3


class S3(NamedTuple):
    """Three queues per region; `uses_F` since an expert came or moved; `small_G`, `main_G`: shares of the slots."""

    queues: Queues
    uses_F: IntArray
    small_G: IntArray
    main_G: IntArray


@compiled
def _from_main(rule: S3, slots: Slots, region: int) -> int:
    """Whom the main queue gives up, -1 for nobody. Experts that this visit asks for stay as the newest."""
    queues, main = rule.queues, region * KINDS + MAIN
    for _ in range((MOST_USES + 1) * queues.size_Q[main]):
        f = queues.oldest_Q[main]
        if slots.state_F[f] == ABSENT:  # its copy failed
            unlink(queues, f)
            if queues.size_Q[main] == 0:
                return -1
        elif rule.uses_F[f] == 0 and may_leave(slots, f):
            unlink(queues, f)
            return int(f)
        else:
            rule.uses_F[f] = max(0, rule.uses_F[f] - 1)
            push(queues, main, f)
    return -1


@compiled
def _from_small(rule: S3, slots: Slots, region: int) -> int:
    """Whom the small queue gives up, or the main queue to take what was used; -1 for nobody."""
    queues, small, main, memory = rule.queues, region * KINDS + SMALL, region * KINDS + MAIN, region * KINDS + MEMORY
    for _ in range(queues.size_Q[small]):
        f = queues.oldest_Q[small]
        if slots.state_F[f] == ABSENT:  # its copy failed
            unlink(queues, f)
        elif rule.uses_F[f] > 1:
            rule.uses_F[f] = 0
            push(queues, main, f)
            if queues.size_Q[main] > rule.main_G[region]:
                victim = _from_main(rule, slots, region)
                if victim >= 0:
                    return victim
        elif may_leave(slots, f):
            push(queues, memory, f)
            if queues.size_Q[memory] > rule.main_G[region]:
                unlink(queues, queues.oldest_Q[memory])
            return int(f)
        else:
            push(queues, small, f)
    return -1


@compiled
def _victim(rule: S3, slots: Slots, region: int) -> int:
    """Who leaves; where the queue whose turn it is has nobody, the other is asked."""
    if rule.queues.size_Q[region * KINDS + SMALL] >= rule.small_G[region]:
        victim = _from_small(rule, slots, region)
        return victim if victim >= 0 else _from_main(rule, slots, region)
    victim = _from_main(rule, slots, region)
    return victim if victim >= 0 else _from_small(rule, slots, region)


def _kernel(stamp: int) -> Kernel:
    @compiled_and_kept
    def serve(rule: S3, slots: Slots, visits: Visits) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        for r in range(len(visits.flat_RN)):
            missing = begin(slots, visits, r)
            for f in visits.flat_RN[r]:
                if slots.state_F[f] >= RESIDENT:
                    rule.uses_F[f] = min(MOST_USES, rule.uses_F[f] + 1)
            region = region_of(slots, visits.flat_RN[r, 0])
            free = free_places(slots, region) if missing else 0
            for i in range(missing):
                new = visits.new_N[i]
                victim = -1 if i < free else _victim(rule, slots, region)
                if i >= free and victim < 0:
                    break
                remembered = rule.queues.queue_F[new] == region * KINDS + MEMORY
                push(rule.queues, region * KINDS + (MAIN if remembered else SMALL), new)
                rule.uses_F[new] = 0
                fetch(slots, visits, r, new, victim)

    return serve


class S3Fifo(OnDemand):
    """S3-FIFO."""

    name = "s3-fifo"
    serve = staticmethod(_kernel(source_stamp(*SOURCES)))

    def share_out(self, rule: S3, slots: Slots) -> None:
        """A tenth for the small queue, the rest for the main one."""
        rule.small_G[:] = np.maximum(1, slots.capacity_G // 10)
        rule.main_G[:] = np.maximum(0, slots.capacity_G - rule.small_G)

    def rule(self, setting: Setting, slots: Slots) -> S3:
        """Empty queues."""
        small_G = np.maximum(1, slots.capacity_G // 10)
        queues = empty_queues(len(slots.state_F), KINDS * len(small_G))
        return S3(queues, np.zeros_like(slots.busy_F), small_G, np.maximum(0, slots.capacity_G - small_G))
