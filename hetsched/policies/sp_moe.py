"""sp-moe: LRU, every miss fetched; while a draft is made, what it names is prefetched, up to a cut-off layer.

SP-MoE (arXiv 2510.10302). The target's routers, applied to the hidden states of the draft's tokens, name experts of
every layer. They are copied layer by layer as far as that can be in time: the cut-off is the last layer up to which the
copies of all layers end before it runs, by the time that drafting leaves and that layers took in the last step. What is
prefetched becomes the most recently used; nobody who is named up to the cut-off leaves for it. An expert on its way is
waited for. Where nobody drafts it is an LRU cache.

Who drafts gives the routers' probabilities (Context.draft_DLE). In a replay of verify steps the step's own experts
stand in for them, a share of which are wrong (forecast/emulated_draft.py).

In an engine drafts are given between steps, as often as more of them is known. Approximated in a replay: they are given
with the last layer of the step before, so that copies have that layer, and `drafting_s` more, before the verify step
begins.

Shapes: L layers, E experts, F both flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..board import MOST_COPIES
from ..errors import InputError
from ..forecast.draft_names import DraftNames
from ..forecast.emulated_draft import USUAL_ACCURACY, check_accuracy
from ..policy import Setting, Traits
from ..types import ExpertId
from .lru import OnDemandLru

if TYPE_CHECKING:
    from .compiled import PolicyKernels


class SpMoe(OnDemandLru):
    """`drafting_s`: seconds that copies have while a draft is made. `depth`: prefetches that may wait for the link.

    `draft_accuracy`: in a replay, the share of a draft's experts that are right.
    """

    name = "sp-moe"
    traits = Traits(
        family="speculation",
        stand_in="a verify step's own experts, a share of them wrong, for the routers' choices on a draft",
        uses_forecaster=True,
    )

    def __init__(
        self, drafting_s: float = 0.0, depth: int = MOST_COPIES, draft_accuracy: float = USUAL_ACCURACY
    ) -> None:
        super().__init__()
        if not drafting_s >= 0.0:
            raise InputError(f"sp-moe's drafting_s is {drafting_s}; it must be at least 0 seconds")
        self.drafting_s, self.depth = float(drafting_s), depth
        self.draft_accuracy = check_accuracy(draft_accuracy)
        self.forecaster = DraftNames()

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """An empty cache; nobody is named."""
        from .learning import learning_of
        from .sp_moe_kernels import first_numbers

        initial = super().start(setting)
        asked = setting.forecaster_or(self.forecaster)
        asked.start(setting.geometry, setting.frequency_LE, setting.history)
        self._learning = learning_of(asked)
        kept_F, copied = np.zeros(len(self._slots.state_F), np.uint8), np.zeros(MOST_COPIES, np.int64)
        numbers = first_numbers(self.drafting_s, self.depth, setting.geometry.num_layers)
        self._more = self._learning.next_LE, numbers, copied, np.zeros(MOST_COPIES), kept_F
        return initial

    def kernels(self) -> PolicyKernels:
        """Fetch every miss that finds a place; copy what a draft names."""
        from .on_demand_plan import kernels_of
        from .sp_moe_kernels import SOURCES, choose, wait_on_gpu

        cache = kernels_of(self.name, OnDemandLru.__module__, self.serve, self._slots, self._rule, wait_on_gpu)
        own, sources = (*cache.own, *self._more), (*cache.sources, *SOURCES)
        return self._learning.taught(cache._replace(own=own, sources=sources, choose=choose))
