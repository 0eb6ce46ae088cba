"""class-lru: LRU within classes of frequency; a set share of the misses runs on the CPU, the others are fetched.

The later cache of llama.cpp (2026). Uses are counted and decay with a half-life of 128 tokens; a used expert enters
class floor(log2(count)), 0 to 7. Of each class the oldest may leave, and of these the one with the largest
age / 2 ** class: being asked for twice as often is worth waiting twice as long.

Ours, where the rule leaves it open: age is counted in visits of layers; the CPU's share is owed and paid over the run,
since a layer misses few experts at a time, and paid with the misses of the lowest count.

Shapes: F all experts flat (layer * E + expert), N active experts of a visit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..jit import compiled, compiled_and_kept, source_stamp
from ..policy import Setting
from ..types import FloatArray, IntArray
from .on_demand import OnDemand
from .on_demand_kernels import (
    PASS,
    SOURCES,
    VISIT,
    Kernel,
    Slots,
    Visits,
    begin,
    highest_first,
    region_of,
    replace_lowest,
)

TOP_CLASS = 7.0
OWED = 0  # place in `owed`


class Classes(NamedTuple):
    """`count_F`: uses, decayed. `used_F`: visit that last asked for an expert. `weight_F`: 2 ** class then.

    `key_F`: -age / weight at this visit, the lowest leaves. `owed`: misses that the CPU owes; `at`: last pass seen.
    `keep`: a token's factor on counts; `share`: of misses, on the CPU.
    """

    count_F: FloatArray
    used_F: IntArray
    weight_F: FloatArray
    key_F: FloatArray
    owed: FloatArray
    at: IntArray
    keep: float
    share: float


@compiled
def _rank(rule: Classes, slots: Slots, region: int) -> None:
    """Keys of the experts that hold slots of a region."""
    begin_at = region * slots.span
    for place in range(begin_at, begin_at + slots.used_G[region]):
        f = slots.held_F[place]
        rule.key_F[f] = (rule.used_F[f] - slots.at[VISIT]) / rule.weight_F[f]


def _kernel(stamp: int) -> Kernel:
    @compiled_and_kept
    def serve(rule: Classes, slots: Slots, visits: Visits) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        for r in range(len(visits.flat_RN)):
            missing = begin(slots, visits, r)
            if rule.at[0] != slots.at[PASS]:
                rule.at[0] = slots.at[PASS]
                rule.count_F[:] *= rule.keep**visits.num_tokens
            rule.owed[OWED] += rule.share * missing
            on_cpu = min(missing, int(rule.owed[OWED] + 1e-9))
            rule.owed[OWED] -= on_cpu
            if missing > on_cpu:
                highest_first(visits.new_N, missing, rule.count_F, rule.count_F)  # the most used
                _rank(rule, slots, region_of(slots, visits.new_N[0]))
                replace_lowest(slots, visits, r, missing - on_cpu, rule.key_F, rule.used_F)
            for f in visits.flat_RN[r]:
                rule.count_F[f] += 1.0
                rule.used_F[f] = slots.at[VISIT]
                rule.weight_F[f] = 2.0 ** min(TOP_CLASS, np.floor(np.log2(max(1.0, rule.count_F[f]))))

    return serve


class ClassLru(OnDemand):
    """`cpu_share`: of misses, computed on the CPU. `half_life`: tokens after which a use counts half."""

    name = "class-lru"
    serve = staticmethod(_kernel(source_stamp(*SOURCES)))

    def __init__(self, cpu_share: float = 0.5, half_life: float = 128.0, per_layer: bool = False) -> None:
        super().__init__(per_layer)
        if not 0.0 <= cpu_share <= 1.0 or not half_life > 0.0:
            raise InputError(f"class-lru's cpu_share {cpu_share} must be 0 to 1, its half_life {half_life} above 0")
        self.cpu_share, self.half_life = cpu_share, half_life

    def rule(self, setting: Setting, slots: Slots) -> Classes:
        """Nothing was used yet."""
        zeros_F = np.zeros(len(slots.state_F))
        keep = 0.5 ** (1.0 / self.half_life)
        used_F, at = np.zeros_like(slots.busy_F), np.zeros(1, np.int64)
        numbers = keep, self.cpu_share
        return Classes(zeros_F, used_F, np.ones_like(zeros_F), zeros_F.copy(), np.zeros(1), at, *numbers)
