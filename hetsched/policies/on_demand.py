"""Caches that fetch every miss, whatever their rule of eviction.

Shapes: L layers, E experts, T tokens, K top-k, F all experts flat (layer * E + expert).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..policy import Decision, Setting, View
from ..residency import Residency
from ..types import Demand, ExpertId, Fetch, IntArray
from .misses import Counts, decision, misses_on_cpu
from .on_demand_kernels import Kernel, Slots, Visits, slots_of, visits_of


def _serve_nothing(rule: Any, slots: Slots, visits: Visits) -> None:
    raise NotImplementedError


_no_rule: Kernel = _serve_nothing


class OnDemand:
    """What such caches share; a rule gives `serve`, a kernel, and `rule`, the arrays that it works on.

    The cache starts empty. A layer's experts are asked for at once: hits are noted first, then misses are fetched in
    ascending order. What the layer asks for is no victim; when nothing else is left, remaining misses run on the CPU.
    `per_layer`: each layer has slots of its own, an equal share of all, instead of competing for them.
    """

    name = "on-demand"
    family = "cache"
    serve = staticmethod(_no_rule)

    def __init__(self, per_layer: bool = False) -> None:
        self.per_layer = per_layer

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """An empty cache: it fills by itself."""
        self._setting = setting
        shape = setting.geometry
        self._slots = slots_of(shape.num_layers, shape.num_experts, setting.num_slots, self.per_layer)
        self._rule = self.rule(setting, self._slots)
        return ()

    def rule(self, setting: Setting, slots: Slots) -> Any:
        """The rule's own arrays, for an empty cache."""
        raise NotImplementedError

    def plan(self, demand: Demand, view: View) -> Decision:
        """Fetch every miss that finds a place."""
        if not demand.active:
            return misses_on_cpu(demand, view, self._setting)
        self._slots.state_F[:] = view.residency.state_LE.reshape(-1)
        experts = self._setting.geometry.num_experts
        visits = visits_of((demand.active_N + demand.layer * experts)[None], demand.num_tokens)
        self.serve(self._rule, self._slots, visits)
        count = int(visits.fetched_R[0])
        places: dict[ExpertId, ExpertId | None] = {}
        for f, victim in zip(visits.new_N[:count].tolist(), visits.victim_N[:count].tolist(), strict=True):
            places[ExpertId(*divmod(f, experts))] = None if victim < 0 else ExpertId(*divmod(victim, experts))
        return decision(demand, view, self._setting, places)

    def observe(self, demand: Demand) -> None:
        """The rule has learned while it served."""

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """Nothing moves before it is missed."""
        return ()

    def counts(self, experts_TLK: npt.NDArray[np.integer], residency: Residency) -> Counts | None:
        """What the next tokens come to, one a step; see fast_replay.py."""
        tokens, layers, top_k = experts_TLK.shape
        if self._slots.at[0] == 0:
            self._slots.state_F[:] = residency.state_LE.reshape(-1)
        offset_L: IntArray = np.arange(layers, dtype=np.int64) * self._setting.geometry.num_experts
        flat_RN = (np.sort(experts_TLK, axis=2) + offset_L[None, :, None]).reshape(-1, top_k)
        visits = visits_of(flat_RN, 1)
        self.serve(self._rule, self._slots, visits)
        found = (visits.hits_R, visits.fetched_R, visits.evicted_R)
        return Counts(*(count_R.reshape(tokens, layers) for count_R in found))
