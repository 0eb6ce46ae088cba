"""hybrimoe: a score-based cache, a list schedule over three lanes, and prefetches ranked by what they would save.

HybriMoE (arXiv 2504.05897), its three parts:

* Score-aware caching (MRS): S <- alpha * TopP(s) + (1 - alpha) * S with the router's scores s, of which only the p
  highest count; the lowest S is evicted first.
* Hybrid scheduling: the list schedule of `list-hybrimoe`. GPU takes what is here, CPU what is missing with low load,
  LINK what is missing with high load.
* Impact-driven prefetching: the routers of the next three layers on this layer's hidden state give candidates; each
  is worth makespan(layer) - makespan(layer with it on the GPU) in the simulated schedule, and the largest gain goes
  first.

Approximated: a trace has no hidden states, so learned transitions between layers stand in for the next routers.
Router weights are those of the chosen experts; where a trace holds none, token counts take their place. p is twice
the top_k; alpha, and the single copy that may wait in the link's queue, are ours, chosen on the first halves of
two traces. The cache starts with the most frequent experts.

Shapes: L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..forecast import shares_LE
from ..plugins import plugin
from ..policy import Decision, Setting, View
from ..residency import ABSENT
from ..types import Demand, ExpertId, Fetch, FloatArray
from .idle_link import copies, expected, room
from .rule_dispatch import RuleDispatch, one_token_times_s, problem_of
from .static import most_frequent

MOST_CANDIDATES = 8  # of one layer, the likeliest ones
MOST_REMEMBERED = 10_000  # makespans


class HybriMoe:
    """MRS cache, list schedule, prefetch by simulated gain.

    `alpha`: weight of the newest scores. `ahead`: layers looked into. `depth`: prefetches that may wait for the link.
    """

    name = "hybrimoe"
    family = "hybrid execution"
    uses_weights = True
    uses_forecaster = True
    stand_in = "learned layer-to-layer transitions for the next routers on this layer's hidden state"

    def __init__(self, alpha: float = 0.03, ahead: int = 3, depth: int = 1) -> None:
        self.alpha = alpha
        self.ahead = ahead
        self.depth = depth

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The most frequent experts; scores begin as their shares."""
        self._dispatch = RuleDispatch(setting, "list-hybrimoe")
        self._schedule = Schedule(setting)
        self._num_slots = setting.num_slots
        self._top_k = setting.geometry.top_k
        self._num_layers = setting.geometry.num_layers
        self._forecaster = setting.forecaster_or("transition")
        self._forecaster.start(setting.geometry, setting.frequency_LE, setting.history)
        self._score_LE: FloatArray = shares_LE(setting.geometry, setting.frequency_LE)
        return most_frequent(setting)

    def plan(self, demand: Demand, view: View) -> Decision:
        """The list schedule; a fetch evicts the lowest score."""
        return self._dispatch.decide(demand, view, self._score_LE)

    def observe(self, demand: Demand) -> None:
        """S <- alpha * TopP(s) + (1 - alpha) * S."""
        tokens = max(demand.num_tokens, 1)
        active = np.array(demand.active, np.int64)
        given = np.array(demand.tokens, float) if demand.weights_E is None else demand.weights_E[active]
        top = np.argsort(-given, kind="stable")[: 2 * self._top_k]
        score_E = self._score_LE[demand.layer]
        score_E *= 1.0 - self.alpha
        score_E[active[top]] += self.alpha * given[top] / tokens
        self._forecaster.observe(demand)

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """The candidates of the next layers whose presence would save most."""
        space = room(demand, view, self.depth)
        if space <= 0 or not self._num_slots:
            return ()
        gain_s, needed = self._candidates(demand, view)
        wanted = sorted(gain_s, key=lambda flat: -gain_s[flat])  # among equals the nearest layer, the likeliest expert
        return copies(
            wanted, demand, view, self._score_LE.reshape(-1), space, "prefetch: largest simulated gain", kept=needed
        )

    def _candidates(self, demand: Demand, view: View) -> tuple[dict[int, float], set[int]]:
        """Gain of each absent expert that the next layers are expected to want (> 0), and all that they want."""
        next_LE, experts = self._forecaster.next_LE(), demand.num_experts
        gain_s: dict[int, float] = {}
        needed: set[int] = set()
        for layer in range(demand.layer + 1, min(demand.layer + 1 + self.ahead, self._num_layers)):
            wanted, tokens = expected(next_LE[layer], self._top_k, demand.num_tokens)
            states = view.residency.states(layer)
            here_n = [n for e, n in zip(wanted, tokens, strict=True) if states[e] != ABSENT]
            missing = [(e, n) for e, n in zip(wanted, tokens, strict=True) if states[e] == ABSENT]
            needed.update(layer * experts + e for e in wanted)
            for e, n in missing[:MOST_CANDIDATES]:
                saved_s = self._schedule.gain_s(here_n, [m for _, m in missing], n, demand.num_tokens)
                if saved_s > 0:
                    gain_s[layer * experts + e] = saved_s
        return gain_s, needed


class Schedule:
    """Makespans of layers to come by the list schedule, remembered: with one token few of them differ."""

    def __init__(self, setting: Setting) -> None:
        self._cost = setting.cost
        found = plugin("hetsched.solvers", "list-hybrimoe")
        self._rule = found() if isinstance(found, type) else found
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...], int], float] = {}
        self._times_s: tuple[float, ...] = ()

    def gain_s(self, here_n: list[int], missing_n: list[int], moved_n: int, num_tokens: int) -> float:
        """Seconds saved where one of the missing, with `moved_n` tokens, is on the GPU instead."""
        left_n = missing_n.copy()
        left_n.remove(moved_n)
        return self.makespan_s(here_n, missing_n, num_tokens) - self.makespan_s([*here_n, moved_n], left_n, num_tokens)

    def makespan_s(self, here_n: list[int], missing_n: list[int], num_tokens: int) -> float:
        """Seconds of a layer with these token counts on the GPU and missing, the link free."""
        times_s = one_token_times_s(self._cost)
        if times_s != self._times_s or len(self._known) > MOST_REMEMBERED:
            self._times_s = times_s
            self._known.clear()
        key = (tuple(sorted(here_n)), tuple(sorted(missing_n)), num_tokens)
        if key not in self._known:
            here = [True] * len(here_n) + [False] * len(missing_n)
            problem = problem_of(self._cost, [*here_n, *missing_n], here, num_tokens)
            self._known[key] = problem.makespan_s(self._rule.solve(problem).choice_N)
        return self._known[key]
