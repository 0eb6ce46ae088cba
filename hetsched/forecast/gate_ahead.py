"""gate-ahead: the routers of the next layers, applied to the hidden states of this one.

Mixtral-Offloading (arXiv 2312.17238) and, for one to three layers, arXiv 2511.05814: hidden states change little from
layer to layer, so the next routers can be asked early. Whoever has the hidden states applies them, after each layer's
own normalisation, and gives `gates_DTE` (see Context); how far each distance can be trusted is learned here.

Shapes: L layers, E experts, T tokens, D layers ahead.
"""

from __future__ import annotations

import numpy as np

from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray
from . import LAYERS_AHEAD, MOST_TOKENS, NOTHING, Context
from . import gate_kernels as kernels
from .ewma import Ewma


class GateAhead:
    """Calibrated routers for the next `distance` layers, nearest last; a running mean for all others."""

    name = "gate-ahead"
    needs = frozenset({"gates"})
    cost_s = 100e-6

    def __init__(self, distance: int = LAYERS_AHEAD) -> None:
        self.distance = self.reach = distance

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """Every distance begins with the same belief; the mean from calibration."""
        self._mean = Ewma()
        self._mean.start(geometry, frequency_LE, history)
        self._top_k = geometry.top_k
        shape = geometry.num_layers, geometry.num_experts
        kernels.make_ready()
        self._state = kernels.begun(*shape, self.distance, self.distance, MOST_TOKENS)
        self._state.next_LE[:] = self._mean.demand_LE()

    def observe(self, demand: Demand, context: Context = NOTHING) -> None:
        """What came of earlier gates of this layer; then the gates of the next ones."""
        layer, state = demand.layer, self._state
        kernels.learn(state, layer, demand.tokens_E, demand.num_tokens)
        self._mean.observe(demand)
        state.next_LE[layer] = self._mean.demand_LE()[layer]
        gates_DTE = context.gates_DTE
        if gates_DTE is None or gates_DTE.shape[1] > MOST_TOKENS:
            return
        ahead = min(self.distance, len(state.next_LE) - 1 - layer)
        gate_DTE = np.ascontiguousarray(gates_DTE[:ahead], np.float32)
        kernels.read(state, layer + 1, gate_DTE, False, self._top_k, self._mean.demand_LE())

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]; valid until the next observe."""
        return self._mean.demand_LE()

    def next_LE(self) -> FloatArray:
        """P(demanded by one token at the next visit of its layer), float [L, E]."""
        return self._state.next_LE
