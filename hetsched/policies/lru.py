"""on-demand-lru: every miss is fetched, the least recently used expert gives way.

The rule of Mixtral-Offloading (arXiv 2312.17238, section 3.1), which keeps one order per layer; here also one for all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import compiled_and_kept, source_stamp
from ..policy import Setting
from ..types import IntArray
from .on_demand import OnDemand
from .on_demand_kernels import SOURCES, VISIT, Kernel, Slots, Visits, begin, replace_lowest

UNLIMITED = 2**31 - 1


class Lru(NamedTuple):
    """`used_F`: visit that last asked for an expert. `most`: tokens of the largest step that the cache serves."""

    used_F: IntArray
    most: int


def _kernel(stamp: int) -> Kernel:
    @compiled_and_kept
    def serve(rule: Lru, slots: Slots, visits: Visits) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        for r in range(len(visits.flat_RN)):
            missing = begin(slots, visits, r)
            if visits.num_tokens > rule.most:
                continue
            replace_lowest(slots, visits, r, missing, rule.used_F, rule.used_F)
            for f in visits.flat_RN[r]:
                rule.used_F[f] = slots.at[VISIT]

    return serve


class OnDemandLru(OnDemand):
    """Least recently used, experts of one visit in order of layer and id; one order over all layers by default."""

    name = "on-demand-lru"
    most_tokens = UNLIMITED  # of a step that goes through the cache
    serve = staticmethod(_kernel(source_stamp(*SOURCES)))

    def rule(self, setting: Setting, slots: Slots) -> Lru:
        """Nothing was used yet."""
        return Lru(np.zeros_like(slots.busy_F), self.most_tokens)


class OnDemandLruPerLayer(OnDemandLru):
    """The same with slots and order per layer, as published."""

    name = "on-demand-lru-per-layer"

    def __init__(self, per_layer: bool = True) -> None:
        super().__init__(per_layer)
