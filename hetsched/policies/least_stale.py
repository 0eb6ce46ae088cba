"""least-stale: what this pass over the model has not touched is stale and leaves first, oldest fetch first.

SpecMD (arXiv 2602.03921), Least-Stale. When nothing is stale, the oldest fetch of all leaves (FIFO). The paper's
prefetching is an option there and left out here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import compiled_and_kept, source_stamp
from ..policy import Setting
from ..types import IntArray
from .on_demand import OnDemand
from .on_demand_kernels import PASS, SOURCES, VISIT, Kernel, Slots, Visits, begin, replace_lowest


class Stale(NamedTuple):
    """`touched_F`: 1 for what this pass has asked for. `fetched_F`: visit of the fetch. `at`: last pass seen."""

    touched_F: IntArray
    fetched_F: IntArray
    at: IntArray


def _kernel(stamp: int) -> Kernel:
    @compiled_and_kept
    def serve(rule: Stale, slots: Slots, visits: Visits) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        for r in range(len(visits.flat_RN)):
            missing = begin(slots, visits, r)
            if rule.at[0] != slots.at[PASS]:
                rule.at[0] = slots.at[PASS]
                rule.touched_F[:] = 0
            fetched = replace_lowest(slots, visits, r, missing, rule.touched_F, rule.fetched_F)
            for i in range(fetched):
                rule.fetched_F[visits.new_N[i]] = slots.at[VISIT]
            for f in visits.flat_RN[r]:
                rule.touched_F[f] = 1

    return serve


class LeastStale(OnDemand):
    """Stale experts first, then first in, first out."""

    name = "least-stale"
    serve = staticmethod(_kernel(source_stamp(*SOURCES)))

    def rule(self, setting: Setting, slots: Slots) -> Stale:
        """Nothing was touched yet."""
        zeros_F = np.zeros_like(slots.busy_F)
        return Stale(zeros_F, zeros_F.copy(), np.zeros(1, np.int64))
