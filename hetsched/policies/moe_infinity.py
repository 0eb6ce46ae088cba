"""moe-infinity: what a request has used so far tells which past request it is like, and that one what comes next.

MoE-Infinity (arXiv 2401.14361). An expert activation matrix (EAM) counts a request's tokens per
expert:

* Miss: fetched, however long it takes.
* Eviction: lowest ratio * (1 - i / L) first, ratio = the request's share of layer i's tokens that went to the expert;
  so early layers, which no prefetch can be in time for, are protected.
* Prefetch: the stored EAM nearest to the request's (1 - mean over layers of the cosine) predicts; expert e of a later
  layer i has priority pEAM[i, e] * (1 - (i - l) / L), pEAM's rows as shares. What was prefetched and not yet reached
  stays.

The collection holds 1000 EAMs: those of the calibration sequences (the last ones), then finished requests; a full one
forgets what was nearest least often, as released (the paper clusters). Where a request begins the demand says. The
queue of prefetches is renewed at each layer, with `depth` copies in the link's.

Shapes: C stored EAMs, L layers, E experts, N active experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..forecast.activation_matrices import ActivationMatrices
from ..policy import Decision, Setting, Traits, View
from ..types import Demand, ExpertId, Fetch, FloatArray
from .idle_link import copies, room
from .rule_dispatch import RuleDispatch

SMALL = 1e-6  # share of an expert that the request has not used


class MoeInfinity:
    """Fetches every miss; evicts and prefetches by request-level activation matrices."""

    name = "moe-infinity"
    traits = Traits(family="prediction")

    def __init__(self, capacity: int = 1000, depth: int = 1) -> None:
        self.capacity = capacity
        self.depth = depth

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """An empty cache: it fills by itself."""
        shape = setting.geometry
        self._dispatch = RuleDispatch(setting, "all-fetch")
        self._past = ActivationMatrices(shape.num_layers, shape.num_experts, self.capacity)
        self._past.add_history(setting.history)
        self._early_L = 1.0 - np.arange(shape.num_layers) / shape.num_layers
        self._score_LE: FloatArray = np.zeros((shape.num_layers, shape.num_experts))
        self._waiting: set[int] = set()
        self._begin()
        return ()

    def plan(self, demand: Demand, view: View) -> Decision:
        """Every miss is fetched; the lowest request ratio * (1 - i / L) gives way."""
        return self._dispatch.decide(demand, view, self._score_LE)

    def observe(self, demand: Demand) -> None:
        """Count into the request's matrix; close the request where another begins."""
        layer, experts = demand.layer, demand.num_experts
        if layer == 0:
            self._waiting.clear()
            if demand.new_request:
                self._past.add(self._count_LE)
                self._begin()
        count_E = self._count_LE[layer]
        count_E[demand.active] += demand.tokens
        self._past.follow(layer, demand.active, demand.tokens)
        self._score_LE[layer] = (count_E / count_E.sum() + SMALL) * self._early_L[layer]
        self._waiting = {flat for flat in self._waiting if flat // experts > layer}

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """The experts of later layers with the highest priority."""
        space, layer, experts = room(demand, view, self.depth), demand.layer, demand.num_experts
        layers = len(self._early_L)
        if space <= 0 or layer + 1 >= layers:
            return ()
        near_LE = self._past.nearest()
        if near_LE is None:
            return ()
        fading_L = 1.0 - np.arange(1, layers - layer) / layers
        priority_F = (near_LE[layer + 1 :] * fading_L[:, None]).reshape(-1)
        absent_F = view.residency.state_LE.reshape(-1)[(layer + 1) * experts :] == 0
        priority_F[~absent_F] = 0.0
        best = np.argsort(-priority_F, kind="stable")[:space]
        wanted = (best[priority_F[best] > 0] + (layer + 1) * experts).tolist()
        keep_F, cause = self._score_LE.reshape(-1), "prefetch: likely in a request like this"
        found = copies(wanted, demand, view, keep_F, space, cause, kept=self._waiting)
        self._waiting.update(fetch.expert.layer * experts + fetch.expert.expert for fetch in found)
        return found

    def _begin(self) -> None:
        self._count_LE: FloatArray = np.zeros_like(self._score_LE)
        self._score_LE[:] = SMALL * self._early_L[:, None]
        self._past.begin()
