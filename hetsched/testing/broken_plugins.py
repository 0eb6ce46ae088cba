"""A policy and a solver that go wrong on purpose around ones that work, the same way for the same seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..deciders.methods import give_methods
from ..dispatch.problem import DispatchProblem
from ..dispatch.solver import Solution, Solver
from ..plugins import plugin
from ..policy import Decision, Policy, Setting, View, traits_of
from ..types import Demand, Evict, ExpertId, Fetch, Lane, Run
from .faults import Dice, InjectedFault

PLAN_RAISES, PLAN_NONSENSE, LEARNING_RAISES = "policy raises", "policy breaks its contract", "forecaster raises"
PREFETCH_RAISES, PREFETCH_NONSENSE = "prefetch raises", "prefetch breaks its contract"
SOLVER_RAISES, SOLVER_LATE, SOLVER_NONSENSE = "solver raises", "solver overruns its budget", "solver returns nonsense"


class BrokenPolicy:
    """A policy that raises or breaks its contract by the dice, each time in the next of several ways."""

    def __init__(self, inner: str | Policy, dice: Dice) -> None:
        found = plugin("hetsched.policies", inner)
        self._inner: Policy = found() if isinstance(found, type) else found
        self._dice = dice
        self._turn = 0
        self.name = f"broken {self._inner.name}"
        self.traits = traits_of(self._inner)
        self.forecaster = getattr(self._inner, "forecaster", None)
        told = getattr(self._inner, "executed", None)
        if told is not None:
            self.executed = told
        resized = getattr(self._inner, "resized", None)
        if resized is not None:
            self.resized = resized

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """As it should be."""
        initial = self._inner.start(setting)
        give_methods(self._inner, setting)
        return initial

    def plan(self, demand: Demand, view: View) -> Decision:
        """A decision, nonsense, or an error."""
        kind = self._dice.throw((PLAN_RAISES, PLAN_NONSENSE))
        if kind == PLAN_RAISES:
            raise InjectedFault(kind)
        decision = self._inner.plan(demand, view)
        if kind == PLAN_NONSENSE:
            self._turn += 1
            broken: Decision = NONSENSE[self._turn % len(NONSENSE)](decision, demand, view)
            return broken
        return decision

    def observe(self, demand: Demand) -> None:
        """Learn, or fail to."""
        if self._dice.throw((LEARNING_RAISES,)):
            raise InjectedFault(LEARNING_RAISES)
        self._inner.observe(demand)

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """Copies, with an impossible one behind them, or an error."""
        kind = self._dice.throw((PREFETCH_RAISES, PREFETCH_NONSENSE))
        if kind == PREFETCH_RAISES:
            raise InjectedFault(kind)
        copies = self._inner.prefetch(demand, view)
        if kind == PREFETCH_NONSENSE:
            return [*copies, Fetch(ExpertId(0, 0), ExpertId(0, 0), True, "of what it displaces")]
        return copies


def _leaves_out(decision: Decision, demand: Demand, view: View) -> Any:
    return decision._replace(runs=decision.runs[1:])


def _runs_twice(decision: Decision, demand: Demand, view: View) -> Any:
    return decision._replace(runs=(*decision.runs, decision.runs[0]))


def _runs_elsewhere(decision: Decision, demand: Demand, view: View) -> Any:
    return decision._replace(runs=tuple(run._replace(expert=ExpertId(10_000, 10_000)) for run in decision.runs))


def _is_nothing(decision: Decision, demand: Demand, view: View) -> Any:
    return None


def _changes_the_demand(decision: Decision, demand: Demand, view: View) -> Any:
    demand.active.pop()
    return decision._replace(runs=tuple(run for run in decision.runs if run.expert.expert in demand.active))


def _evicts_then_fetches_the_impossible(decision: Decision, demand: Demand, view: View) -> Any:
    """The first changes are good, and made, before the last is seen to be none."""
    states = view.residency.states(demand.layer)
    absent = ExpertId(demand.layer, next((e for e, state in enumerate(states) if state == 0), 0))
    idle = view.residency.evictable(demand.layer, demand.active_N)[:2].tolist()
    places: list[ExpertId | None] = [ExpertId(*divmod(i, demand.num_experts)) for i in idle]
    evicts = tuple(Evict(place, "for nothing") for place in places[:1] if place is not None)
    once = Fetch(absent, places[1] if len(places) > 1 else None, False, "for nothing")
    each = zip(demand.active, demand.tokens, strict=True)
    runs = tuple(Run(ExpertId(demand.layer, e), tokens, Lane.CPU, "x") for e, tokens in each)
    return Decision(runs, (once, once), evicts)


NONSENSE: tuple[Callable[[Decision, Demand, View], Any], ...] = (
    _leaves_out,
    _runs_twice,
    _runs_elsewhere,
    _is_nothing,
    _changes_the_demand,
    _evicts_then_fetches_the_impossible,
)


class BrokenSolver:
    """A solver that raises, answers after `late_s` or answers nonsense, by the dice."""

    def __init__(self, inner: str | Solver, dice: Dice, late_s: float = 0.15) -> None:
        found = plugin("hetsched.solvers", inner)
        self._inner: Solver = found() if isinstance(found, type) else found
        self._dice = dice
        self._late_s = late_s
        self.name = f"broken {self._inner.name}"

    def solve(self, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
        """An answer, an answer too late, nonsense, or an error."""
        kind = self._dice.throw((SOLVER_RAISES, SOLVER_LATE, SOLVER_NONSENSE))
        if kind == SOLVER_RAISES:
            raise InjectedFault(kind)
        if kind == SOLVER_LATE:
            time.sleep(self._late_s)
        found = self._inner.solve(problem, time_limit_s=time_limit_s)
        if kind == SOLVER_NONSENSE:
            return _with_choice(found, np.full(problem.size, 7, np.int8))
        return found


def _with_choice(found: Solution, choice_N: Any) -> Solution:
    """The same claims with another choice."""
    return Solution(found.status, choice_N, found.objective_s, found.bound_s)
