"""gate-ahead: the routers of the next layers, applied to the hidden states of this one.

Mixtral-Offloading (arXiv 2312.17238) and, for one to three layers, arXiv 2511.05814: hidden states change little from
layer to layer, so the next routers can be asked early. Whoever has the hidden states applies them, after each layer's
own normalisation, and gives `gates_DTE` (see Context); how far each distance can be trusted is learned here.

Shapes: L layers, E experts, T tokens, D layers ahead.
"""

from __future__ import annotations

from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray
from . import LAYERS_AHEAD, MOST_TOKENS, NOTHING, Context
from .calibrated import GateBins, Said
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
        self._next_LE = self._mean.demand_LE().copy()
        self._trust = [GateBins(geometry.top_k) for _ in range(self.distance)]
        self._said: list[dict[int, Said]] = [{} for _ in range(geometry.num_layers)]

    def observe(self, demand: Demand, context: Context = NOTHING) -> None:
        """What came of earlier gates of this layer; then the gates of the next ones."""
        layer = demand.layer
        if demand.num_tokens <= MOST_TOKENS:
            for d, said in self._said[layer].items():
                if len(said.p_TE) == demand.num_tokens:
                    self._trust[d].learn(said, demand.tokens_E)
        self._said[layer].clear()
        self._mean.observe(demand)
        self._next_LE[layer] = self._mean.demand_LE()[layer]
        if context.gates_DTE is None:
            return
        ahead = min(self.distance, len(self._said) - 1 - layer)
        for d, gate_TE in enumerate(context.gates_DTE[:ahead]):
            said = self._said[layer + 1 + d][d] = self._trust[d].read(gate_TE)
            self._next_LE[layer + 1 + d] = said.p_E

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]; valid until the next observe."""
        return self._mean.demand_LE()

    def next_LE(self) -> FloatArray:
        """P(demanded by one token at the next visit of its layer), float [L, E]."""
        return self._next_LE
