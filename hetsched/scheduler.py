"""Scheduler: step(demand) -> Plan, prefetch() -> copies, observe(outcome). No torch, no thread, no file.

The clock only times the scheduler itself.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .cost.model import CostModel
from .dispatch.guard import SOLVER_BUDGET_S, SolverGuard
from .dispatch.solver import Solver
from .errors import InputError
from .faults import Fault, story
from .geometry import MoEGeometry
from .machine.profile import HardwareProfile
from .plugins import plugin
from .policies.misses import misses_on_cpu
from .policy import Decision, Policy, Setting, View, asks_solver
from .residency import ABSENT, Arrive, Drop, Residency
from .stats import RunStats
from .traces.trace import RoutingTrace
from .types import Copies, Demand, Evict, ExpertId, Fetch, FloatArray, IntArray, Lane, LinkState, Outcome, Phase, Plan

IDLE = LinkState()
DEFAULT_SOLVER = "exact"
GPU = Lane.GPU
WARN_AFTER = 8  # layers in a row that a policy could not decide


class PlanError(RuntimeError):
    """A policy's decision that breaks the contract; a fault of the policy, never of the user."""


class Scheduler:
    """Decides, for one model on one machine, where each active expert runs and what moves.

    For each layer: `step` once its router has spoken, start the plan, `prefetch` while it runs, `observe` what it came
    to. `policy` and `solver` are names of installed plug-ins, "module:Class", or objects. `gpu_bytes`: memory for
    experts on the GPU. `history`: a calibration trace; `frequency_LE` [L, E]: its tokens per expert, where that is all
    there is. `future`: what will be demanded, for clairvoyant policies in a replay. `timed_as`: take another model's
    seconds. `clock`: what decisions are timed with.

    `degrade`: a plug-in that raises or breaks its contract costs a plain decision (residents on the GPU, the rest on
    the CPU) and is counted in `stats.faults`; a solver gets a budget. That is for engines; without it, faults of a
    policy are raised, which is for replays and tests.
    """

    def __init__(
        self,
        geometry: MoEGeometry,
        hardware: HardwareProfile,
        gpu_bytes: int,
        *,
        policy: str | Policy = "hetsched",
        solver: str | Solver = DEFAULT_SOLVER,
        frequency_LE: FloatArray | None = None,
        history: RoutingTrace | None = None,
        future: RoutingTrace | None = None,
        timed_as: MoEGeometry | None = None,
        clock: Callable[[], float] = time.perf_counter,
        degrade: bool = False,
    ) -> None:
        self.geometry = geometry
        self.cost = CostModel(hardware, timed_as or geometry)
        slots = geometry.slots(gpu_bytes) if self.cost.has_gpu else 0
        self.residency = Residency(geometry.num_layers, geometry.num_experts, slots)
        self.policy: Policy = _instance("hetsched.policies", policy)
        self.uses_weights = bool(getattr(self.policy, "uses_weights", False))
        self.solver: Solver = _instance("hetsched.solvers", solver)
        refuse_idle_solver(self.policy, solver)
        if frequency_LE is None and history is not None:
            frequency_LE = history.demand_LE(slice(None)).astype(float)
        self.stats = RunStats(geometry.expert_bytes)
        self._degrade = degrade
        self.guard = SolverGuard(self.solver, self.fault, SOLVER_BUDGET_S) if degrade else SolverGuard(self.solver)
        self._setting = Setting(geometry, self.cost, slots, self.guard, frequency_LE, history, future)
        self.initial: tuple[ExpertId, ...] = tuple(self.residency.fill(self.policy.start(self._setting)))
        self._tokens_LE = [[0] * geometry.num_experts for _ in range(geometry.num_layers)]
        self._clock = clock
        self._step = -1
        self._layer = geometry.num_layers
        self._unobserved: Demand | None = None
        self._undecided, self._last_undecided = 0, -1

    @property
    def tokens_LE(self) -> IntArray:
        """Tokens demanded of each expert so far, int64 [L, E]."""
        return np.array(self._tokens_LE, np.int64)

    def demand(
        self, layer: int, tokens_E: IntArray, num_tokens: int, phase: Phase, weights_E: FloatArray | None = None
    ) -> Demand:
        """A Demand with its step counted here: a layer that does not follow the last one begins a new step."""
        return Demand(self._step_of(layer), layer, phase, tokens_E, num_tokens, weights_E)

    def one_token_demand(
        self, layer: int, active: list[int], phase: Phase, weights_E: FloatArray | None = None
    ) -> Demand:
        """The same for one token and its experts, ascending."""
        ones, experts = [1] * len(active), self.geometry.num_experts
        return Demand.listed(self._step_of(layer), layer, phase, active, ones, 1, experts, weights_E)

    def step(self, demand: Demand, link: LinkState = IDLE) -> Plan:
        """Decide one layer. The residency is as if every copy of the plan had started."""
        start = self._clock()
        for expert in link.arrived:
            self._arrive(expert)
        states = self.residency.states(demand.layer)
        self.stats.record_demand(demand, states)
        view = View(self.residency, link)
        active = demand.active.copy()
        moved: list[Evict | Fetch] = []
        try:
            decision = self.policy.plan(demand, view)
            self._check(demand, decision, states, active)
            changes: list[Evict | Fetch] = [*decision.evicts, *decision.fetches]
            for change in changes:
                self.residency.apply(change)
                moved.append(change)
        except Exception as error:  # any plug-in may fail in any way; the step must go on
            demand.active[:] = active
            decision = self._plain(demand, view, moved, error)
        self._unobserved = demand
        runs, fetches, evicts, predicted_s, status = decision
        plan = Plan(demand, runs, fetches, evicts, predicted_s, self._clock() - start, status)
        self.stats.record_plan(plan)
        return plan

    def prefetch(self, link: LinkState = IDLE) -> Copies:
        """Learn the last plan's demand and choose copies, while the lanes work. Without it nothing is prefetched."""
        demand, start = self._unobserved, self._clock()
        if demand is None:
            return Copies()
        for expert in link.arrived:
            self._arrive(expert)
        self._learn(demand)
        fetches: list[Fetch] = []
        try:
            for fetch in self.policy.prefetch(demand, View(self.residency, link)):
                if _is_active(fetch.victim, demand):
                    raise PlanError(f"{self.policy.name} evicts {fetch.victim}, which is active")
                self.residency.apply(fetch)
                fetches.append(fetch)
                self.stats.record_fetch(fetch)
        except Exception as error:  # as in step; copies chosen before it are good
            self._excuse(Fault.PREFETCH, error)
        copies = Copies(tuple(fetches), self._clock() - start)
        self.stats.overlapped_s += copies.decision_s
        return copies

    def observe(self, outcome: Outcome) -> None:
        """Take note of an executed plan: what the GPU ran has arrived."""
        demand = outcome.plan.demand
        if self._unobserved is demand:
            self._learn(demand)
        if self.residency.num_copying:
            for run in outcome.plan.runs:
                if run.lane is GPU:
                    self._arrive(run.expert)
        self.stats.record_outcome(outcome)

    def lose(self, expert: ExpertId, reason: str) -> None:
        """A copy failed, or its end was given up: the expert is absent again, and its slot free."""
        self._drop(expert)
        self.fault(Fault.COPY, f"layer {expert.layer} expert {expert.expert}: {reason}")

    def fault(self, fault: Fault, reason: str) -> None:
        """Count what was survived."""
        self.stats.record_fault(fault, reason)

    def drop_copies(self) -> None:
        """After a fault or cancellation: what had not arrived never will."""
        for expert in self.residency.copying():
            self.residency.apply(Drop(expert))
        self._layer = self.geometry.num_layers
        self._unobserved = None

    def _step_of(self, layer: int) -> int:
        if layer <= self._layer:
            self._step += 1
        self._layer = layer
        return self._step

    def _learn(self, demand: Demand) -> None:
        self._unobserved = None
        row_E = self._tokens_LE[demand.layer]
        for e, tokens in zip(demand.active, demand.tokens, strict=True):
            row_E[e] += tokens
        try:
            self.policy.observe(demand)
        except Exception as error:  # as in step; this layer is not learned
            self._excuse(Fault.LEARNING, error)

    def _plain(self, demand: Demand, view: View, moved: list[Evict | Fetch], error: Exception) -> Decision:
        """In place of a decision that failed: nothing is fetched, and what it had given up already stays given up."""
        self._excuse(Fault.POLICY, error)
        evicts = []
        for change in moved:
            if isinstance(change, Evict):
                evicts.append(change)
                continue
            self._drop(change.expert)
            if change.victim is not None:
                evicts.append(Evict(change.victim, "given up by a decision that failed"))
        in_a_row = self._last_undecided == self.stats.layers - 1
        self._undecided, self._last_undecided = self._undecided + 1 if in_a_row else 1, self.stats.layers
        if self._undecided == WARN_AFTER:
            said = f"policy {self.policy.name} failed {WARN_AFTER} layers in a row, residents stay as they are"
            warnings.warn(f"{said}: {story(error)}", RuntimeWarning, stacklevel=2)
        return misses_on_cpu(demand, view, self._setting)._replace(evicts=tuple(evicts))

    def _excuse(self, fault: Fault, error: Exception) -> None:
        """Count an error of a plug-in, or raise it where it is the user's or where that is what was asked for."""
        if not self._degrade or isinstance(error, InputError):
            raise error
        self.fault(fault, f"{self.policy.name}: {story(error)}")

    def _drop(self, expert: ExpertId) -> None:
        if self.residency.is_copying(expert):
            self.residency.apply(Drop(expert))

    def _arrive(self, expert: ExpertId) -> None:
        if self.residency.is_copying(expert):
            self.residency.apply(Arrive(expert))

    def _check(self, demand: Demand, decision: Decision, states: list[int], active: list[int]) -> None:
        """Raise PlanError where a decision breaks the contract that residency cannot see."""
        for evict in decision.evicts:
            if _is_active(evict.expert, demand):
                raise PlanError(f"{self.policy.name} evicts {evict.expert}, which is active")
        fetched = {fetch.expert for fetch in decision.fetches}
        for fetch in decision.fetches:
            if _is_active(fetch.victim, demand):
                raise PlanError(f"{self.policy.name} evicts {fetch.victim}, which is active")
        ran = []
        for expert, _, lane, _ in decision.runs:
            e = expert.expert
            ran.append(e)
            if lane is GPU and states[e] == ABSENT and expert not in fetched:
                raise PlanError(f"{self.policy.name} runs {expert} on the GPU, where it is not")
        ran.sort()
        if ran != active:
            raise PlanError(f"{self.policy.name} runs experts {ran}, demanded: {active}")


def refuse_idle_solver(policy: Any, solver: Any) -> None:
    """Raise InputError where a solver other than the default is named for a policy (or class of one) that asks none."""
    if solver != DEFAULT_SOLVER and not asks_solver(policy):
        names = [named if isinstance(named, str) else getattr(named, "name", named) for named in (policy, solver)]
        raise InputError(
            f"policy {names[0]} asks no solver, so {names[1]} would change nothing; drop the solver, or declare "
            "uses_solver in the policy if it does ask"
        )


def _is_active(expert: ExpertId | None, demand: Demand) -> bool:
    return expert is not None and expert.layer == demand.layer and expert.expert in demand.active


def _instance(group: str, spec: Any) -> Any:
    """An object of a plug-in: the spec itself, or its class called without arguments."""
    found = plugin(group, spec)
    return found() if isinstance(found, type) else found
