"""hetsched: one number, the seconds an expert's residency is expected to save, for fetch, prefetch and evict.

    utility(e) = saving_s * (P(demanded at its layer's next visit) + later * P(demanded in a step))

Both P come from a forecaster, learned online. `later` stands for all visits after the next one: small, because by then
the slot will have been reconsidered many times. Dispatch of the active experts is the integer program of problem.py;
a fetch costs its victim's utility and the link's price, which is what copies have been gaining of late. While the lanes
work, absent experts replace resident ones as long as that gains and the link keeps up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dispatch.problem import judging
from ..jit import announced
from ..plugins import plugin
from ..policy import Decision, Setting, View
from ..residency import Residency
from ..types import Demand, ExpertId, Fetch, FloatArray, Lane, Phase
from .misses import misses_on_cpu
from .pose import OneToken, pose, to_decision
from .static import most_frequent
from .utility_kernels import COPY, DENSE, LATER, SAVING, WORTH, choose_swaps, empty_state

MOST_SWAPS = 4  # prefetches chosen at once
RECENT = 0.15  # how far one demand moves the forecast of the next towards certainty
RATE = 0.02  # of the averages that follow the run: link price, layer time


class Utility:
    """hetsched's own policy.

    `later`: weight of demand after the next visit. `hysteresis`: by how many copy times the newcomer must be better.
    `backlog_layers`: no prefetch is issued while copies for longer than so many layers wait.
    """

    name = "hetsched"
    family = "integer program"
    uses_solver = True

    def __init__(
        self,
        forecaster: Any = "transition",
        later: float = 0.25,
        hysteresis: float = 0.01,
        backlog_layers: float = 1.0,
    ) -> None:
        found = plugin("hetsched.forecasters", forecaster)
        self.forecaster = found() if isinstance(found, type) else found
        self.later = later
        self.hysteresis = hysteresis
        self.backlog_layers = backlog_layers

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """Fill every slot, by calibration frequency if there is one."""
        self._setting = setting
        cost, shape = setting.cost, setting.geometry
        with announced("hetsched: compiling hetsched's policy once, about 20 s ..."):
            self.forecaster.start(shape, setting.frequency_LE, setting.history)
            self._warm_up()
        self._known = empty_state(shape.num_layers, shape.num_experts)
        self._utility_LE: FloatArray = self._known.utility_LE
        if not cost.has_gpu:
            return ()
        (cpu_s,), (gpu_s,) = cost.each_cpu_s((1,)), cost.each_gpu_s((1,))
        self._one_token = OneToken(setting)
        self._copy_s = cost.copy_s()
        self._saving_s = min(cpu_s, self._copy_s + gpu_s)  # a miss need not run on the CPU
        self._layer_s = cost.dense_s(1) + shape.top_k * cpu_s
        self._link_price_s = self._cpu_share = 0.0
        self._lowest_s = 0.0
        self._left_s = 0.0
        self._swaps_3W = np.zeros((3, MOST_SWAPS))
        self._now = np.zeros(12)
        self._now[SAVING], self._now[LATER], self._now[COPY] = self._saving_s, self.later, self._copy_s
        self._now[DENSE] = cost.dense_s(1)
        return most_frequent(setting)

    def plan(self, demand: Demand, view: View) -> Decision:
        """The layer's integer program, by the solver unless one token's answer is settled without."""
        if not self._setting.cost.has_gpu:
            return misses_on_cpu(demand, view, self._setting)
        decision = None
        if demand.num_tokens == 1:
            most_s = self._saving_s * (1.0 + self.later) - self._lowest_s - self._link_price_s
            decision = self._one_token.settle(demand, view, most_s)
        if decision is None:
            decision = self._solve(demand, view)
        self._follow(demand, decision)
        return decision

    def observe(self, demand: Demand) -> None:
        """Learn the demand."""
        self.forecaster.observe(demand)
        reach = self.forecaster.reach
        self._known.stale_L[demand.layer : None if reach is None else demand.layer + reach + 1] = True

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """The best absent experts for the worst resident ones, as far as that pays and the link has time."""
        if not self._setting.num_slots:
            return ()
        backlog_s = max((remaining_s for _, remaining_s in view.link.in_flight), default=view.link.free_s)
        limit_s = self.backlog_layers * self._layer_s
        if backlog_s > limit_s:
            return ()
        moment = (
            demand.layer,
            view.residency.free_slots,
            _tokens_ahead(demand),
            backlog_s,
            limit_s,
            self._layer_s,
            self._left_s,
        )
        self._now[: len(moment)] = moment
        self._now[WORTH] = self.hysteresis * self._copy_s + self._contention_s()
        forecast = self.forecaster.next_LE(), self.forecaster.demand_LE(), view.residency.state_LE
        count, self._lowest_s = choose_swaps(*self._known, *forecast, demand.active_N, self._now, self._swaps_3W)
        swaps = [[int(new), int(victim), gain_s] for new, victim, gain_s in self._swaps_3W[:, :count].T.tolist()]
        gained_s = sum(gain_s for *_, gain_s in swaps) / count if count else 0.0
        self._link_price_s += RATE * (gained_s - self._link_price_s)
        return [self._fetch(new, victim, gain_s) for new, victim, gain_s in swaps]

    def _warm_up(self) -> None:
        one, nobody = np.zeros((1, 1)), np.zeros(0, np.int64)  # compiled here (or read from disk), not in a step
        judging()
        choose_swaps(*empty_state(1, 1), one, one, Residency(1, 1, 0).state_LE, nobody, np.ones(12), np.zeros((3, 1)))

    def _follow(self, demand: Demand, decision: Decision) -> None:
        """Averages over the run: a layer's time, and for how much of it the CPU lane works."""
        self._left_s = decision.predicted_s
        layer_s = self._setting.cost.dense_s(demand.num_tokens) + decision.predicted_s
        self._layer_s += RATE * (layer_s - self._layer_s)
        share = decision.predicted_s / layer_s if decision.runs and decision.runs[-1].lane is Lane.CPU else 0.0
        self._cpu_share += RATE * (share - self._cpu_share)

    def _contention_s(self) -> float:
        """What one copy costs the CPU lane beside it."""
        return self._copy_s * self._cpu_share * (1.0 - 1.0 / self._setting.cost.profile.cpu_slowdown)

    def _solve(self, demand: Demand, view: View) -> Decision:
        utility_LE = self._utility_LE
        p_N = np.minimum(self.forecaster.demand_LE()[demand.layer, demand.active], 1.0)
        again_N = 1.0 - (1.0 - p_N - RECENT * (1.0 - p_N)) ** _tokens_ahead(demand)
        active_s_N = self._saving_s * (1.0 + self.later) * again_N
        utility_LE[demand.layer, demand.active] = active_s_N
        self._lowest_s = min(self._lowest_s, float(active_s_N.min(initial=np.inf)))
        posed = pose(demand, view, self._setting, utility_LE, self._link_price_s + self._contention_s())
        found = self._setting.solver.solve(posed.problem)
        runs, fetches = to_decision(demand, posed, found.choice_N, self._setting.geometry.num_experts)
        status = found.fallback.value if found.fallback else found.status.name
        return Decision(runs, fetches, predicted_s=found.makespan_s, solver_status=status)

    def _fetch(self, new: int, victim: int, gain_s: float) -> Fetch:
        experts = self._setting.geometry.num_experts
        place = None if victim < 0 else ExpertId(*divmod(victim, experts))
        return Fetch(
            ExpertId(*divmod(new, experts)), place, prefetch=True, cause=f"prefetch: saves {gain_s * 1e6:.0f} µs"
        )


def _tokens_ahead(demand: Demand) -> int:
    """Tokens in the steps to come: like steps follow each other, but after a prefill comes decoding."""
    return 1 if demand.phase is Phase.PREFILL else demand.num_tokens
