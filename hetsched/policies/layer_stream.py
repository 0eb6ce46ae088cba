"""layer-stream: nothing is kept; every active expert is copied when it is used.

What accelerate's CPU offload and AirLLM do, expert by expert: a layer's weights come when the layer runs and go when it
has run. Slots are staging room. A slot cannot serve twice within a layer, so where a layer asks for more than there are
slots, the rest runs on the CPU (there it would wait for room).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..policy import Decision, Setting, View
from ..residency import ABSENT, RESIDENT, Residency
from ..types import Demand, Evict, ExpertId, Fetch
from .misses import Counts, decision


class LayerStream:
    """Every expert is copied at every use. In a model of one MoE layer, what two steps in a row want is copied once."""

    name = "layer-stream"
    family = "streaming"

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """Nothing is there."""
        self._setting = setting
        self._staged = 0
        return ()

    def plan(self, demand: Demand, view: View) -> Decision:
        """Give up what the last layer used, fetch what this one asks for."""
        states = view.residency.states(demand.layer)
        gone = [ExpertId(l, e) for l, e in view.residency.residents() if not (l == demand.layer and e in demand.active)]
        evicts = tuple(Evict(expert, "used") for expert in gone if view.residency.state_LE[expert] == RESIDENT)
        room = view.residency.free_slots + len(evicts)
        wanted = [ExpertId(demand.layer, e) for e in demand.active if states[e] == ABSENT]
        made = decision(demand, view, self._setting, dict.fromkeys(wanted[:room]))
        return made._replace(evicts=evicts)

    def observe(self, demand: Demand) -> None:
        """There is nothing to learn."""

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """Nothing moves before it is used."""
        return ()

    def counts(self, experts_TLK: npt.NDArray[np.integer], residency: Residency) -> Counts | None:
        """What the next tokens come to, one a step; see fast_replay.py."""
        tokens, layers, top_k = experts_TLK.shape
        if layers == 1 or tokens == 0:
            return None
        fetched = min(top_k, residency.num_slots)
        fetched_TL = np.full((tokens, layers), fetched, np.int64)
        evicted_TL = fetched_TL.copy()
        evicted_TL[0, 0] = self._staged
        self._staged = fetched
        return Counts(np.zeros_like(fetched_TL), fetched_TL, evicted_TL)
