"""gdsf: GreedyDual-Size with frequency (Cherkasova, HP Labs report HPL-98-69R1, 1998).

Priority = clock + frequency * cost / size, set whenever an expert is used; the lowest gives way, and the clock rises
to the priority of what left. All experts are of one cost and one size here, so cost / size is 1: what remains of the
rule is LFU that forgets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import compiled_and_kept, source_stamp
from ..policy import Setting
from ..types import FloatArray, IntArray
from .on_demand import OnDemand
from .on_demand_kernels import (
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


class Gdsf(NamedTuple):
    """`priority_F`; `count_F`: uses since the last fetch; `clock_G` per region; `used_F`: last visit, for ties."""

    priority_F: FloatArray
    count_F: IntArray
    clock_G: FloatArray
    used_F: IntArray


def _kernel(stamp: int) -> Kernel:
    @compiled_and_kept
    def serve(rule: Gdsf, slots: Slots, visits: Visits) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        for r in range(len(visits.flat_RN)):
            missing = begin(slots, visits, r)
            region = region_of(slots, visits.flat_RN[r, 0])
            for f in visits.flat_RN[r]:
                rule.used_F[f] = slots.at[VISIT]
                if slots.state_F[f] >= RESIDENT:
                    rule.count_F[f] += 1
                    rule.priority_F[f] = rule.clock_G[region] + rule.count_F[f]
            fetched = replace_lowest(slots, visits, r, missing, rule.priority_F, rule.used_F)
            for i in range(fetched):
                new, victim = visits.new_N[i], visits.victim_N[i]
                if victim >= 0:
                    rule.clock_G[region] = max(rule.clock_G[region], rule.priority_F[victim])
                rule.count_F[new] = 1
                rule.priority_F[new] = rule.clock_G[region] + 1.0

    return serve


class GreedyDual(OnDemand):
    """GreedyDual-Size-Frequency; of equals the least recently used gives way."""

    name = "gdsf"
    serve = staticmethod(_kernel(source_stamp(*SOURCES)))

    def rule(self, setting: Setting, slots: Slots) -> Gdsf:
        """Clock at zero."""
        zeros_F = np.zeros_like(slots.busy_F)
        return Gdsf(zeros_F.astype(float), zeros_F, np.zeros(len(slots.capacity_G)), zeros_F.copy())
