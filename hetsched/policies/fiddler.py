"""fiddler: a static placement by frequency; each missing expert goes to the CPU or is copied, whichever is shorter.

Fiddler (arXiv 2402.07033): the popular experts of a calibration run stay on the GPU; a missing expert with n tokens
takes min(c(n), copy + g(n)). Each expert by itself: the rule knows of no lanes that work in parallel.

Approximated: Fiddler copies into one scratch buffer and forgets the expert after use. Here a copy needs a slot, and
takes that of the least frequent resident; since a copied expert is less frequent still, the tail of the placement
serves as the buffer and the rest never changes.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..policy import Decision, Setting, View
from ..types import Demand, ExpertId, Fetch
from .rule_dispatch import RuleDispatch, first_kept_longest
from .static import most_frequent


class Fiddler:
    """Static frequency, and the shorter of CPU and copy for each miss."""

    name = "fiddler"
    family = "static placement"

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """Pairs by descending calibration frequency."""
        self._dispatch = RuleDispatch(setting, "rule-fiddler")
        popular = most_frequent(setting)
        self._keep_LE = first_kept_longest(popular, setting)
        return popular

    def plan(self, demand: Demand, view: View) -> Decision:
        """min(c(n), copy + g(n)) for each miss."""
        return self._dispatch.decide(demand, view, self._keep_LE)

    def observe(self, demand: Demand) -> None:
        """The placement is static."""

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """Nothing moves before it is missed."""
        return ()
