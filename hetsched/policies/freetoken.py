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
from typing import Any

import numpy as np

from ..board import ACTIVE, EXPERTS, LAYER, Board
from ..jit import compiled_lean
from ..policy import Kernelled, Setting, Traits
from ..types import ExpertId, FloatArray
from .compiled import PolicyKernels
from .rule_kernels import Ruled, ruled
from .static import first_kept_longest, most_frequent


@compiled_lean
def note(board: Board, seconds_4T: FloatArray, own: Any) -> None:
    """Everything this layer used is the most recent."""
    used_F, clock_1, first = own[0], own[3], board.at[LAYER] * board.at[EXPERTS]
    clock_1[0] += 1.0
    for i in range(board.at[ACTIVE]):
        used_F[first + board.active_N[i]] = clock_1[0]


class FreeToken(Kernelled):
    """Global LRU, misses divided by bandwidth."""

    name = "freetoken"
    traits = Traits(family="recency")

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The most frequent experts, the rarest of them the least recently used."""
        hottest = most_frequent(setting)
        self._clock_1 = np.array([float(len(hottest))])
        self._used_LE = first_kept_longest(hottest, setting)
        return hottest

    def kernels(self) -> PolicyKernels:
        """Fetch pcie / (pcie + cpu) of the misses, the most recently active first; the least recently used give way."""
        own = (*Ruled(self._used_LE.reshape(-1), by_value=True), self._clock_1)
        return ruled(self.name, "ratio-freetoken", __name__, own)._replace(note=note)
