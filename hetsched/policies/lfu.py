"""on-demand-lfu: every miss is fetched, the least frequently used expert gives way.

The rule that arXiv 2511.05814 sets against LRU, per layer there. Counts outlive eviction: there are few experts, and
one number for each is cheap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..jit import compiled_and_kept, source_stamp
from ..policy import Setting
from ..types import FloatArray, IntArray
from .on_demand import OnDemand
from .on_demand_kernels import PASS, SOURCES, VISIT, Kernel, Slots, Visits, begin, replace_lowest


class Lfu(NamedTuple):
    """`count_F`: visits that asked for an expert, decayed. `used_F`: the last of them. `at`: last pass seen."""

    count_F: FloatArray
    used_F: IntArray
    at: IntArray
    decay: float


def _kernel(stamp: int) -> Kernel:
    @compiled_and_kept
    def serve(rule: Lfu, slots: Slots, visits: Visits) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        for r in range(len(visits.flat_RN)):
            missing = begin(slots, visits, r)
            if rule.decay < 1.0 and rule.at[0] != slots.at[PASS]:
                rule.at[0] = slots.at[PASS]
                rule.count_F[:] *= rule.decay
            replace_lowest(slots, visits, r, missing, rule.count_F, rule.used_F)
            for f in visits.flat_RN[r]:
                rule.count_F[f] += 1.0
                rule.used_F[f] = slots.at[VISIT]

    return serve


class OnDemandLfu(OnDemand):
    """Least frequently used; of equals the least recently used.

    `decay`: factor on all counts at each step, 1.0 for none (as published). A step counts once, however many
    tokens it has.
    """

    name = "on-demand-lfu"
    serve = staticmethod(_kernel(source_stamp(*SOURCES)))

    def __init__(self, decay: float = 1.0, per_layer: bool = False) -> None:
        super().__init__(per_layer)
        if not 0.0 < decay <= 1.0:
            raise InputError(f"on-demand-lfu's decay is {decay}; it must be above 0 and at most 1")
        self.decay = decay

    def rule(self, setting: Setting, slots: Slots) -> Lfu:
        """Nothing was counted yet."""
        zeros_F = np.zeros_like(slots.busy_F)
        return Lfu(zeros_F.astype(float), zeros_F, np.zeros(1, np.int64), self.decay)


class OnDemandLfuPerLayer(OnDemandLfu):
    """The same with slots per layer, as published."""

    name = "on-demand-lfu-per-layer"

    def __init__(self, decay: float = 1.0, per_layer: bool = True) -> None:
        super().__init__(decay, per_layer)
