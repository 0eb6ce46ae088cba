"""draft-gate: the target's routers, applied to the hidden states of a draft of the tokens to come.

SP-MoE (arXiv 2510.10302). Whoever drafts gives `draft_DLE` (see Context), at any layer, once a step or oftener; how far
each layer's can be trusted is learned here.

Shapes: L layers, E experts, D drafted tokens.
"""

from __future__ import annotations

from ..geometry import MoEGeometry
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray
from . import NOTHING, Context
from .calibrated import GateBins, Said
from .ewma import Ewma


class DraftGate:
    """Calibrated routers for drafted tokens; a running mean where nothing was drafted."""

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
        self._next_LE = self._mean.demand_LE().copy()
        self._trust = [GateBins(geometry.top_k) for _ in range(geometry.num_layers)]
        self._said: list[Said | None] = [None] * geometry.num_layers

    def observe(self, demand: Demand, context: Context = NOTHING) -> None:
        """What came of this layer's draft; then what is drafted for the next visits."""
        layer, said = demand.layer, self._said[demand.layer]
        if said is not None and len(said.p_TE) == demand.num_tokens:
            self._trust[layer].learn(said, demand.tokens_E)
        self._said[layer] = None
        self._mean.observe(demand)
        self._next_LE[layer] = self._mean.demand_LE()[layer]
        if context.draft_DLE is None:
            return
        for l in range(len(self._said)):
            said = self._said[l] = self._trust[l].read(context.draft_DLE[:, l])
            self._next_LE[l] = said.p_E

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]; valid until the next observe."""
        return self._mean.demand_LE()

    def next_LE(self) -> FloatArray:
        """P(demanded by one token at the next visit of its layer), float [L, E]."""
        return self._next_LE
