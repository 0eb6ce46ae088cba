"""Dispatch by a published rule: the layer's dispatch problem, the rule's choice, and ops that follow from it.

Shapes: L layers, E experts, N active experts of the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hetsched.cost.model import CostModel
from hetsched.dispatch.problem import Device, DispatchProblem, judging
from hetsched.plugins import plugin
from hetsched.policies.misses import misses_on_cpu
from hetsched.policy import Decision, Setting, View
from hetsched.residency import COPYING, RESIDENT
from hetsched.types import Demand, ExpertId, FloatArray, Lane, Run
from tests.oracles.pose import pose, to_decision

_ONE = (1,)


class RuleDispatch:
    """Decides layers by one of `hetsched.solvers`, named or given.

    Its choice stands even where leaving everything as it is were better: it is the rule that is to be measured.
    """

    def __init__(self, setting: Setting, rule: object) -> None:
        found = plugin("hetsched.solvers", rule)
        self._rule = found() if isinstance(found, type) else found
        self._setting = setting
        self._known: dict[tuple[bool, ...], Quiet | None] = {}
        self._times_s: tuple[float, ...] = ()
        if setting.num_slots:
            judging()  # compiled here (or read from disk), not in a step

    def decide(self, demand: Demand, view: View, keep_LE: FloatArray) -> Decision:
        """One layer's decision. Victims go by ascending `keep_LE`."""
        setting = self._setting
        if not view.residency.num_slots:
            return misses_on_cpu(demand, view, setting)
        quiet = self._quiet(demand, view) if demand.num_tokens == 1 else None
        if quiet is not None:
            return quiet
        posed = pose(demand, view, setting, keep_LE)
        choice_N = self._rule.solve(posed.problem).choice_N
        runs, fetches = to_decision(demand, posed, choice_N, demand.num_experts)
        return Decision(runs, fetches, predicted_s=posed.problem.makespan_s(choice_N))

    def _quiet(self, demand: Demand, view: View) -> Decision | None:
        """The decision for one token where it is to fetch nothing, remembered by who is here; None where it may fetch.

        A rule that fetches nothing over a free link, with a place for everyone, does not over a busy one with fewer.
        """
        states = view.residency.states(demand.layer)
        found = [states[e] for e in demand.active]
        if COPYING in found:
            return None
        times_s = one_token_times_s(self._setting.cost)
        if times_s != self._times_s:
            self._times_s = times_s
            self._known.clear()
        here = tuple([state >= RESIDENT for state in found])
        if here not in self._known:
            problem = problem_of(self._setting.cost, demand.tokens, here, 1)
            choice_N = self._rule.solve(problem).choice_N
            fetches = bool((choice_N == Device.FETCH).any())
            self._known[here] = None if fetches else Quiet(tuple(choice_N.tolist()), problem.makespan_s(choice_N))
        known = self._known[here]
        if known is None:
            return None
        chosen = [(ExpertId(demand.layer, e), device) for e, device in zip(demand.active, known.devices, strict=True)]
        runs = [Run(expert, 1, Lane.GPU, "resident") for expert, device in chosen if device]
        runs += [Run(expert, 1, Lane.CPU, "the CPU ends sooner") for expert, device in chosen if not device]
        return Decision(tuple(runs), predicted_s=known.makespan_s)


class Quiet(NamedTuple):
    """A choice without fetches: 1 for the GPU, 0 for the CPU, expert by expert, and its makespan."""

    devices: tuple[int, ...]
    makespan_s: float


def one_token_times_s(cost: CostModel) -> tuple[float, ...]:
    """GPU, CPU and copy seconds; they change when the cost model is recalibrated, and what was remembered is void."""
    return (*cost.each_gpu_s(_ONE), *cost.each_cpu_s(_ONE), cost.copy_s())


def problem_of(cost: CostModel, tokens: Sequence[int], here: Sequence[bool], num_tokens: int) -> DispatchProblem:
    """A layer that asks for experts with these tokens, some of them on the GPU; free link, places at no price."""
    return DispatchProblem(
        gpu_s_N=np.array(cost.each_gpu_s(tokens)),
        cpu_s_N=np.array(cost.each_cpu_s(tokens)),
        copy_s_N=np.full(len(tokens), cost.copy_s()),
        ready_s_N=np.where(here, 0.0, np.inf),
        utility_N=np.zeros(len(tokens)),
        victim_price_V=np.zeros(len(tokens) - sum(here)),
        roundtrip_s=cost.cpu_start_s(num_tokens),
        gpu_call_s=cost.gpu_call_s(),
    )
