"""fiddler: a static placement by frequency; each missing expert goes to the CPU or is copied, whichever is shorter.

Fiddler (arXiv 2402.07033): the popular experts of a calibration run stay on the GPU; a missing expert with n tokens
takes min(c(n), copy + g(n)). Each expert by itself: the rule knows of no lanes that work in parallel.

Approximated: Fiddler copies into one scratch buffer and forgets the expert after use. Here a copy needs a slot, and
takes that of the least frequent resident; since a copied expert is less frequent still, the tail of the placement
serves as the buffer and the rest never changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..policy import Kernelled, Setting, Traits
from ..types import ExpertId, FloatArray
from .static import first_kept_longest, most_frequent

if TYPE_CHECKING:
    from .compiled import PolicyKernels


class Fiddler(Kernelled):
    """Static frequency, and the shorter of CPU and copy for each miss."""

    name = "fiddler"
    traits = Traits(family="static placement")

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """Pairs by descending calibration frequency."""
        popular = most_frequent(setting)
        self._keep_LE = first_kept_longest(popular, setting)
        return popular

    def resized(self, num_slots: int) -> FloatArray:
        """The least frequent leave."""
        return self._keep_LE

    def kernels(self) -> PolicyKernels:
        """min(c(n), copy + g(n)) for each miss; nothing is learned, and nothing moves before it is missed."""
        from .rule_kernels import Ruled, ruled

        return ruled(self.name, "rule-fiddler", __name__, Ruled(self._keep_LE.reshape(-1)))
