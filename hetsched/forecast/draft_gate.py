"""draft-gate: the target's routers, applied to the hidden states of a draft of the tokens to come.

SP-MoE (arXiv 2510.10302). Whoever drafts gives `draft_DLE` (see Context), between steps or at any layer, once a step or
oftener; how far each layer's can be trusted is learned here, where the step that follows has as many tokens. Without
drafts it is a running mean.

Shapes: L layers, E experts, D drafted tokens.
"""

from __future__ import annotations

import numpy as np

from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, Float32Array, FloatArray
from . import MOST_TOKENS, NOTHING, Context
from . import gate_kernels as kernels
from .ewma import Ewma


class DraftGate:
    """Calibrated routers for drafted tokens, each layer's by itself; a running mean where nothing was drafted."""

    name = "draft-gate"
    reach = None
    needs = frozenset({"draft"})
    cost_s = 100e-6

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """Every layer begins with the same belief; the mean from calibration."""
        self._mean = Ewma()
        self._mean.start(geometry, frequency_LE, history)
        self._top_k = geometry.top_k
        kernels.make_ready()
        self._state = kernels.begun(geometry.num_layers, geometry.num_experts, 1, geometry.num_layers, MOST_TOKENS)
        self._state.next_LE[:] = self._mean.demand_LE()

    def observe(self, demand: Demand, context: Context = NOTHING) -> None:
        """What came of this layer's draft; then what is drafted for the next visits."""
        layer, state, draft_DLE = demand.layer, self._state, context.draft_DLE
        kernels.learn(state, layer, demand.tokens_E, demand.num_tokens)
        self._mean.observe(demand)
        state.next_LE[layer] = self._mean.demand_LE()[layer]
        if draft_DLE is not None:
            self.foresee(draft_DLE)

    def foresee(self, draft_DLE: Float32Array) -> None:
        """What is drafted for the next visits of all layers."""
        if len(draft_DLE) <= MOST_TOKENS:
            draft_LDE = np.ascontiguousarray(draft_DLE.transpose(1, 0, 2), np.float32)
            kernels.read(self._state, 0, draft_LDE, True, self._top_k, self._mean.demand_LE())

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]; valid until the next observe."""
        return self._mean.demand_LE()

    def next_LE(self) -> FloatArray:
        """P(demanded by one token at the next visit of its layer), float [L, E]."""
        return self._state.next_LE
