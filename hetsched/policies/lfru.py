"""lfru: a privileged part of the cache in LRU order, the rest by approximated LFU.

Bilal and Kang, "A cache management scheme for efficient content eviction and replication in cache networks" (IEEE
Access 2017, arXiv 1702.04078). What is used enters the privileged part; what that pushes out falls into the
unprivileged one; there the least frequently used leaves the cache. Frequencies are counted over a window only. The
paper was not at hand when this was written: halves for the parts and the window's length are this project's choice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..jit import compiled_and_kept, source_stamp
from ..policy import Setting
from ..types import FloatArray, IntArray
from .on_demand import OnDemand
from .on_demand_kernels import (
    PASS,
    RESIDENT,
    SOURCES,
    VISIT,
    Kernel,
    Slots,
    Visits,
    begin,
    region_of,
    replace_lowest,
)
from .queues import Queues, empty_queues, push, unlink

PRIVILEGED = 1e18  # above every count: such an expert leaves only when no other may


class Lfru(NamedTuple):
    """`queues`: the privileged part of each region. `key_F`: count, or PRIVILEGED. `count_F`: uses in this window.

    `used_F`: last visit. `room_G`: size of the privileged part. `window`: steps; `at`: the one that it began with.
    """

    queues: Queues
    key_F: FloatArray
    count_F: IntArray
    used_F: IntArray
    room_G: IntArray
    window: int
    at: IntArray


def _kernel(stamp: int) -> Kernel:
    @compiled_and_kept
    def serve(rule: Lfru, slots: Slots, visits: Visits) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        queues = rule.queues
        for r in range(len(visits.flat_RN)):
            missing = begin(slots, visits, r)
            region = region_of(slots, visits.flat_RN[r, 0])
            if slots.at[PASS] - rule.at[0] >= rule.window:
                rule.at[0] = slots.at[PASS]
                rule.count_F[:] = 0
                for f in range(len(rule.key_F)):
                    if rule.key_F[f] < PRIVILEGED:
                        rule.key_F[f] = 0.0
            replace_lowest(slots, visits, r, missing, rule.key_F, rule.used_F)
            for i in range(visits.fetched_R[r]):
                if visits.victim_N[i] >= 0:
                    unlink(queues, visits.victim_N[i])
            for f in visits.flat_RN[r]:
                rule.count_F[f] += 1
                rule.used_F[f] = slots.at[VISIT]
                if slots.state_F[f] >= RESIDENT:
                    push(queues, region, f)
                    rule.key_F[f] = PRIVILEGED
                while queues.size_Q[region] > rule.room_G[region]:
                    fallen = queues.oldest_Q[region]
                    unlink(queues, fallen)
                    rule.key_F[fallen] = float(rule.count_F[fallen])

    return serve


class LeastFrequentRecent(OnDemand):
    """LFRU. `privileged`: share of the slots in the privileged part; `window`: steps over which uses are counted.

    Of equally frequent experts the least recently used leaves.
    """

    name = "lfru"
    serve = staticmethod(_kernel(source_stamp(*SOURCES)))

    def __init__(self, privileged: float = 0.5, window: int = 64, per_layer: bool = False) -> None:
        super().__init__(per_layer)
        if not 0.0 <= privileged <= 1.0 or window < 1:
            raise InputError(f"lfru's privileged share {privileged} must be 0 to 1, its window {window} at least 1")
        self.privileged, self.window = privileged, window

    def share_out(self, rule: Lfru, slots: Slots) -> None:
        """The privileged part keeps its share."""
        rule.room_G[:] = self.privileged * slots.capacity_G

    def rule(self, setting: Setting, slots: Slots) -> Lfru:
        """Nobody is privileged yet."""
        flat, regions = len(slots.state_F), len(slots.capacity_G)
        room_G = (self.privileged * slots.capacity_G).astype(np.int64)
        count_F, used_F = (np.zeros(flat, np.int64) for _ in range(2))
        queues = empty_queues(flat, regions)
        return Lfru(queues, np.zeros(flat), count_F, used_F, room_G, self.window, np.zeros(1, np.int64))
