"""Scheduler: step(demand) -> Plan, observe(outcome). No torch, no thread, no file; the clock only times itself."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from .cost import CostModel
from .geometry import MoEGeometry
from .plugins import load
from .policy import Decision, Machine, Policy, View
from .profile import HardwareProfile
from .residency import ABSENT, COPYING, Arrive, Drop, Residency
from .solver import Solver
from .stats import RunStats
from .types import Demand, ExpertId, Fetch, FloatArray, IntArray, Lane, LinkState, Outcome, Phase, Plan, Run

IDLE = LinkState()


class PlanError(RuntimeError):
    """A policy's decision that breaks the contract; a fault of the policy, never of the user."""


class Scheduler:
    """Decides, for one model on one machine, where each active expert runs and what moves.

    Call `step` once the router of a layer has spoken, run the plan, then `observe` what it came to. `policy` and
    `solver` are names of installed plug-ins, "module:Class", or objects. `gpu_bytes`: memory for experts on the GPU.
    `frequency_LE` [L, E]: tokens per expert in a calibration run. `timed_as`: take another model's seconds.
    """

    def __init__(
        self,
        geometry: MoEGeometry,
        hardware: HardwareProfile,
        gpu_bytes: int,
        *,
        policy: str | Policy = "hetsched",
        solver: str | Solver = "exact",
        frequency_LE: FloatArray | None = None,
        timed_as: MoEGeometry | None = None,
    ) -> None:
        self.geometry = geometry
        self.cost = CostModel(hardware, timed_as or geometry)
        slots = geometry.slots(gpu_bytes) if self.cost.has_gpu else 0
        self.residency = Residency(geometry.num_layers, geometry.num_experts, slots)
        self.policy: Policy = _instance("hetsched.policies", policy)
        self.solver: Solver = _instance("hetsched.solvers", solver)
        machine = Machine(geometry, self.cost, slots, self.solver, frequency_LE)
        self.initial: tuple[ExpertId, ...] = tuple(self.residency.fill(self.policy.start(machine)))
        self.stats = RunStats(geometry.expert_bytes)
        self.tokens_LE = np.zeros((geometry.num_layers, geometry.num_experts), np.int64)  # demanded so far
        self._step = -1
        self._layer = geometry.num_layers

    def demand(
        self, layer: int, tokens_E: IntArray, num_tokens: int, phase: Phase, weights_E: FloatArray | None = None
    ) -> Demand:
        """A Demand with its step counted here: a layer that does not follow the last one begins a new step."""
        if layer <= self._layer:
            self._step += 1
        self._layer = layer
        return Demand(self._step, layer, phase, tokens_E, num_tokens, weights_E)

    def step(self, demand: Demand, link: LinkState = IDLE) -> Plan:
        """Decide one layer. The residency is as if every copy of the plan had started."""
        start = time.perf_counter()
        for expert in link.arrived:
            self._arrive(expert)
        states = self.residency.states(demand.layer)
        self.stats.record_demand(demand, states)
        self.tokens_LE[demand.layer] += demand.tokens_E
        decision = self.policy.plan(demand, View(self.residency, link))
        self._check(demand, decision, states)
        for op in decision.ops:
            if not isinstance(op, Run):
                self.residency.apply(op)
        took_s = time.perf_counter() - start
        plan = Plan(demand, decision.ops, decision.predicted_s, took_s, decision.solver_status)
        self.stats.record_plan(plan)
        return plan

    def observe(self, outcome: Outcome) -> None:
        """Learn from an executed plan: what the GPU ran has arrived."""
        for run in outcome.plan.runs:
            if run.lane is Lane.GPU:
                self._arrive(run.expert)
        self.stats.record_outcome(outcome)
        self.policy.observe(outcome)

    def drop_copies(self) -> None:
        """After a fault or cancellation: what had not arrived never will."""
        for expert in self.residency.copying():
            self.residency.apply(Drop(expert))
        self._layer = self.geometry.num_layers

    def _arrive(self, expert: ExpertId) -> None:
        if self.residency.state_LE[expert] == COPYING:
            self.residency.apply(Arrive(expert))

    def _check(self, demand: Demand, decision: Decision, states: list[int]) -> None:
        """Raise PlanError where a decision breaks the contract that residency cannot see."""
        fetched, ran = set(), []
        for op in decision.ops:
            if type(op) is Run:
                e = op.expert.expert
                ran.append(e)
                if op.lane is Lane.GPU and states[e] == ABSENT and e not in fetched:
                    raise PlanError(f"{self.policy.name} runs {op.expert} on the GPU, where it is not")
            elif type(op) is Fetch:
                if op.expert.layer == demand.layer:
                    fetched.add(op.expert.expert)
                if _is_active(op.victim, demand):
                    raise PlanError(f"{self.policy.name} evicts {op.victim}, which is active")
        if sorted(ran) != demand.active:
            raise PlanError(f"{self.policy.name} runs experts {sorted(ran)}, demanded: {demand.active}")


def _is_active(expert: ExpertId | None, demand: Demand) -> bool:
    return expert is not None and expert.layer == demand.layer and bool(demand.tokens_E[expert.expert])


def _instance(group: str, spec: Any) -> Any:
    """An object of a plug-in: the spec itself, or its class called without arguments."""
    found = load(group, spec)
    return found() if isinstance(found, type) else found
