"""llama-moe-cache: one LRU over the slots of all layers; every miss is fetched, but large steps pass the cache by.

The expert cache of mainline llama.cpp since October 2026. A step of more than 32 tokens asks for most experts and would
turn the cache over for nothing, so it neither reads into it nor counts as a use.

Approximated: what a large step misses llama.cpp streams through a buffer of its own; such bytes are in no budget here,
so it runs on the CPU.

Shapes: F all experts flat (layer * E + expert).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..jit import compiled_and_kept, source_stamp
from ..policy import Setting
from ..types import IntArray
from .on_demand import OnDemand
from .on_demand_kernels import SOURCES, VISIT, Kernel, Slots, Visits, begin, replace_lowest


class CachedSteps(NamedTuple):
    """`used_F`: visit that last asked for an expert. `most`: tokens of the largest step that the cache serves."""

    used_F: IntArray
    most: int


def _kernel(stamp: int) -> Kernel:
    @compiled_and_kept
    def serve(rule: CachedSteps, slots: Slots, visits: Visits) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        for r in range(len(visits.flat_RN)):
            missing = begin(slots, visits, r)
            if visits.num_tokens > rule.most:
                continue
            replace_lowest(slots, visits, r, missing, rule.used_F, rule.used_F)
            for f in visits.flat_RN[r]:
                rule.used_F[f] = slots.at[VISIT]

    return serve


class LlamaMoeCache(OnDemand):
    """One least-recently-used order. `most_tokens`: of a step that goes through the cache."""

    name = "llama-moe-cache"
    serve = staticmethod(_kernel(source_stamp(*SOURCES)))

    def __init__(self, most_tokens: int = 32) -> None:
        super().__init__()
        if most_tokens < 1:
            raise InputError(f"llama-moe-cache's most_tokens is {most_tokens}; it must be at least 1")
        self.most_tokens = most_tokens

    def rule(self, setting: Setting, slots: Slots) -> CachedSteps:
        """Nothing was used yet."""
        return CachedSteps(np.zeros_like(slots.busy_F), self.most_tokens)
