"""freetoken: one LRU of slots over all layers; of the misses, the share that the link's bandwidth allows is fetched.

FreeToken (August 2026), its q* policy: with the bandwidths that link and CPU reach side by side, fetch the fraction
pcie / (pcie + cpu) of a layer's misses and compute the others on the CPU, so that both end together. What is fetched
stays in the cache. As released, the misses that were active most recently are the ones fetched.

Approximated: a fraction is rounded to the nearest whole number of experts; where the CPU is much faster than the link
and misses are few, that is none, and the cache stays as it is. So it does not start cold but with the most frequent
experts, as a list of hot experts allows there. Prefill, which FreeToken streams layer by layer, follows the same rule
as decode.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..policy import Decision, Setting, View
from ..types import Demand, ExpertId, Fetch
from .rule_dispatch import RuleDispatch, first_kept_longest
from .static import most_frequent


class FreeToken:
    """Global LRU, misses divided by bandwidth."""

    name = "freetoken"
    family = "recency"

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The most frequent experts, the rarest of them the least recently used."""
        self._dispatch = RuleDispatch(setting, "ratio-freetoken")
        hottest = most_frequent(setting)
        self._clock = float(len(hottest))
        self._used_LE = first_kept_longest(hottest, setting)
        return hottest

    def plan(self, demand: Demand, view: View) -> Decision:
        """Fetch pcie / (pcie + cpu) of the misses, the most recently active first; the least recently used give way."""
        return self._dispatch.decide(demand, view, self._used_LE, prefer_E=self._used_LE[demand.layer])

    def observe(self, demand: Demand) -> None:
        """Everything this layer used is the most recent."""
        self._clock += 1.0
        self._used_LE[demand.layer, demand.active] = self._clock

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """Nothing moves before it is missed."""
        return ()
