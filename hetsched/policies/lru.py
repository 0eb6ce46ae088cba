"""on-demand-lru: every miss is fetched, the least recently used expert gives way.

The residency rule of Mixtral-Offloading (arXiv 2312.17238, section 3.1), global instead of per layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..policy import Decision, Machine, View
from ..residency import RESIDENT
from ..types import Demand, ExpertId, Outcome
from .misses import decision


class OnDemandLru:
    """One LRU order over all layers.

    A layer that asks for more experts than there are slots fetches what fits; the rest runs on the CPU.
    """

    name = "on-demand-lru"

    def start(self, machine: Machine) -> Sequence[ExpertId]:
        """An empty cache: it fills by itself."""
        self._machine = machine
        self._used_LE = np.zeros((machine.geometry.num_layers, machine.geometry.num_experts), np.int64)
        self._clock = 0
        return ()

    def plan(self, demand: Demand, view: View) -> Decision:
        """Fetch every miss that finds a place, the least recently used first to go."""
        states = view.residency.states(demand.layer)
        missing = [ExpertId(demand.layer, e) for e in demand.active if states[e] < RESIDENT]
        flat = view.residency.evictable(demand.layer, demand.active_N) if missing else np.empty(0, np.int64)
        oldest = flat[np.argsort(self._used_LE.reshape(-1)[flat], kind="stable")]
        experts = self._machine.geometry.num_experts
        places: list[ExpertId | None] = [None] * view.residency.free_slots
        places += [ExpertId(*divmod(int(v), experts)) for v in oldest[: len(missing)]]
        return decision(demand, view, self._machine, dict(zip(missing, places, strict=False)))

    def observe(self, outcome: Outcome) -> None:
        """Everything this layer used is the most recent."""
        self._clock += 1
        demand = outcome.plan.demand
        self._used_LE[demand.layer, demand.active_N] = self._clock
