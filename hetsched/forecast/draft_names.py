"""draft-names: who is named by the target's routers for the tokens of a draft, and nobody where nothing was drafted.

SP-MoE (arXiv 2510.10302) prefetches these. No probabilities and no plug-in: draft-gate says how far a draft can be
trusted; here an expert that any drafted token's router chooses counts 1.

Shapes: L layers, E experts, D drafted tokens.
"""

from __future__ import annotations

import numpy as np

from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, Float32Array, FloatArray
from . import NOTHING, Context


class DraftNames:
    """1 for each expert that the draft names at its layer's next visit."""

    name = "draft-names"
    reach = None
    takes = frozenset({"draft"})
    cost_s = 50e-6

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """Nobody is named; calibration says nothing of it."""
        self._named_LE = np.zeros((geometry.num_layers, geometry.num_experts))
        self._top_k = geometry.top_k

    def observe(self, demand: Demand, context: Context = NOTHING) -> None:
        """The layer's draft is used up; then what is drafted for the next visits."""
        self._named_LE[demand.layer] = 0.0
        if context.draft_DLE is not None:
            self.foresee(context.draft_DLE)

    def foresee(self, draft_DLE: Float32Array) -> None:
        """What is drafted for the next visits of all layers."""
        self._named_LE[:] = 0.0
        top_DLK = np.argpartition(-draft_DLE, self._top_k - 1, axis=2)[:, :, : self._top_k]
        is_chosen_DLK = np.take_along_axis(draft_DLE, top_DLK, axis=2) > 0.0
        for chosen_LK, top_LK in zip(is_chosen_DLK, top_DLK, strict=True):
            layers, places = np.nonzero(chosen_LK)
            self._named_LE[layers, top_LK[layers, places]] = 1.0

    def demand_LE(self) -> FloatArray:
        """The same: it knows of no later visit."""
        return self._named_LE

    def next_LE(self) -> FloatArray:
        """1 for who is named, float [L, E]."""
        return self._named_LE
