"""ensemble: what several forecasters say, weighed by what each has lately added.

The next visit's forecast is a product of experts, a logarithmic opinion pool (Genest and Zidek, "Combining probability
distributions", 1986):

    logit P(e) = w0 + sum over members m of w(m) logit P(e of m)

Its weights climb the log score of every forecast against what came, by Newton steps with forgetting (pool.py). The
forecast of later demand is a linear pool, whose weights are exponential in the members' own recent log scores. A member
that brings less than it costs is not asked any more: what it brings are the hits among the top_k likeliest experts that
are lost without it, at `hit_s` seconds each; what it costs is its trait `cost_s`, declared, so that the same demands
give the same forecasts whatever else this host is doing.

Shapes: L layers, E experts, M members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..geometry import MoEGeometry
from ..plugins import instance
from ..traces.trace import RoutingTrace
from ..types import Demand, FloatArray
from . import NOTHING, Context, Learned, tell, traits, under
from .gamma_poisson import GammaPoisson
from .last import Last
from .pool import LEAST, Pool, logit
from .transition import Transition

MEMBERS = (Transition, GammaPoisson, Last)
TRIED_EVERY = 8  # layers between two trials without each member
TRIALS = 400  # before one is dropped, and between two
FADING = 0.999  # of scores, a layer


class Ensemble:
    """A pool of forecasters. `members`: names, classes or objects; `hit_s`: what one more expert foreseen saves."""

    name = "ensemble"
    cost_s = 150e-6

    def __init__(self, members: Sequence[Any] = MEMBERS, hit_s: float = 200e-6) -> None:
        self._all = [instance("hetsched.forecasters", member) for member in members]
        self.hit_s = hit_s
        self.needs: frozenset[str] = frozenset().union(*(traits(member).needs for member in self._all))
        reaches = [member.reach for member in self._all]
        self.reach: int | None = None if None in reaches else max(reaches)

    def start(
        self, geometry: MoEGeometry, frequency_LE: FloatArray | None = None, history: RoutingTrace | None = None
    ) -> None:
        """All members, each begun anew."""
        self.members = list(self._all)
        for member in self.members:
            member.start(geometry, frequency_LE, history)
        self._top_k, self._experts = geometry.top_k, geometry.num_experts
        self._pool = Pool(len(self.members))
        self._score_M: FloatArray = np.zeros(len(self.members))
        self._brings_M: FloatArray = np.zeros(len(self.members))
        self._layers = self._trials = 0
        shape = geometry.num_layers, geometry.num_experts
        self._next_LE, self._demand_LE = np.zeros(shape), np.zeros(shape)
        self._say(slice(None))

    def observe(self, demand: Demand, context: Context = NOTHING) -> None:
        """What each member had said of this layer, against what came; then the members learn."""
        layer = demand.layer
        came_E = demand.tokens_E / max(demand.num_tokens, 1)
        p_ME = np.stack([member.next_LE()[layer] for member in self.members])
        odds_ME = logit(p_ME)
        held_ME = p_ME.clip(LEAST, 1.0 - LEAST)
        scored_M = (came_E * odds_ME + np.log1p(-held_ME)).sum(axis=1)
        self._score_M = FADING * self._score_M + scored_M / self._experts
        self._layers += 1
        worst = self._try_without(odds_ME, demand) if self._layers % TRIED_EVERY == 0 else None
        self._pool.learn(odds_ME, came_E)
        if worst is not None:
            self._drop(worst)
        for member in self.members:
            tell(member, demand, context)
        self._say(slice(None) if self.reach is None else slice(layer, layer + self.reach + 1))

    def demand_LE(self) -> FloatArray:
        """Expected tokens per expert for one token of a step, float [L, E]; valid until the next observe."""
        return self._demand_LE

    def next_LE(self) -> FloatArray:
        """P(demanded by one token at the next visit of its layer), float [L, E]."""
        return self._next_LE

    def learned(self) -> Learned:
        """The members', each under its name, and what the pool's weights rest on."""
        own = {f"pool {self._names()}/{name}": array for name, array in self._pool.learned().items()}
        for member in self.members:
            if hasattr(member, "learned"):
                own.update({f"{member.name}/{name}": array for name, array in member.learned().items()})
        return own

    def recall(self, learned: Learned) -> None:
        """What members of these names learned, and their weights, where the pool was of the same ones."""
        for member in self.members:
            if hasattr(member, "recall") and (known := under(f"{member.name}/", learned)):
                member.recall(known)
        if known := under(f"pool {self._names()}/", learned):
            self._pool.recall(known)
        self._say(slice(None))

    def _names(self) -> str:
        return "+".join(member.name for member in self.members)

    def _say(self, rows: slice) -> None:
        """Pool what the members say of some layers."""
        odds_MLE = logit(np.stack([member.next_LE()[rows] for member in self.members]))
        self._next_LE[rows] = self._pool.p(odds_MLE)
        weight_M = np.exp(self._score_M - self._score_M.max())
        weight_M /= weight_M.sum()
        said_LE = self._demand_LE[rows]
        said_LE[:] = 0.0
        for weight, member in zip(weight_M, self.members, strict=True):
            said_LE += weight * member.demand_LE()[rows]

    def _try_without(self, odds_ME: FloatArray, demand: Demand) -> int | None:
        """Count hits of the pool less those without each member; after enough of it, who brings least for its cost."""
        weighed_ME = self._pool.weight_M[1:, None] * odds_ME
        total_E = weighed_ME.sum(axis=0)
        place = self._experts - self._top_k
        guessed = np.argpartition(np.vstack([total_E, total_E - weighed_ME]), place, axis=1)[:, place:]
        hits = np.isin(guessed, demand.active).sum(axis=1)
        self._trials += 1
        self._brings_M += ((hits[0] - hits[1:]) - self._brings_M) / min(self._trials, TRIALS)
        if self._trials < TRIALS or len(self.members) == 1:
            return None
        worth_M = self.hit_s * self._brings_M - [traits(member).cost_s for member in self.members]
        worst = int(np.argmin(worth_M))
        return worst if worth_M[worst] < 0 else None

    def _drop(self, m: int) -> None:
        """One member goes; what the others bring without it is to be seen anew."""
        del self.members[m]
        self._pool.drop(m)
        self._score_M = np.delete(self._score_M, m)
        self._brings_M = np.zeros(len(self.members))
        self._trials = 0
