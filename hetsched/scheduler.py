"""Scheduler: step(demand) -> Plan, prefetch() -> copies, observe(outcome). No torch, no thread, no file.

The clock only times the scheduler itself.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from .board import S_OVERLAPPED, STATUS, new_board, open_board
from .board.seconds import Seconds
from .cost.model import CostModel
from .deciders import Decider
from .deciders.asked import DEFAULT_SOLVER as DEFAULT_SOLVER
from .deciders.asked import forecaster_of, refuse_odd
from .deciders.asked import refuse_idle_forecaster as refuse_idle_forecaster
from .deciders.asked import refuse_idle_solver as refuse_idle_solver
from .deciders.pace import Pace
from .deciders.views import PlanError as PlanError
from .deciders.views import Views
from .dispatch.answers import kernel_of
from .dispatch.guard import SOLVER_BUDGET_S, SolverGuard
from .dispatch.solver import Solver
from .errors import InputError
from .faults import Fault, story
from .forecast import Forecaster, Learned
from .forecast.fed import Contexts, Replayed, known_before
from .forecast.given import check_frequency
from .geometry import MoEGeometry
from .machine.profile import HardwareProfile
from .plugins import instance, plugin
from .policy import Policy, Setting, is_compiled, traits_of
from .recalibration import Recalibration
from .residency import Arrive, Drop, Residency
from .shadow.watchdog import watchdog_of
from .stats import RunStats
from .traces.trace import RoutingTrace
from .types import (
    Copies,
    Demand,
    ExpertId,
    Fetch,
    Float32Array,
    FloatArray,
    IntArray,
    Lane,
    LinkState,
    Outcome,
    Phase,
    Plan,
    RoutedDemand,
    RouterIds,
)

if TYPE_CHECKING:
    from .deciders.notes import LayerNotes

IDLE = LinkState()
NO_SOLVER = "all-cpu"  # of a policy that asks none: it compiles nothing
GPU = Lane.GPU
NOT_LOOKED = 0.0, 0.0  # seconds that it took, and that it is expected to save
WARN_AFTER = 8  # layers in a row that a policy could not decide


class Scheduler:
    """Decides, for one model on one machine, where each active expert runs and what moves.

    For each layer: `step` once its router has spoken, start the plan, `prefetch` while it runs, `observe` what it came
    to; `begin_step` before the first, where it is known whether a request begins; `foresee` before that, where it is
    known which tokens the step is to verify. `policy` and `solver` are names of installed plug-ins, "module:Class", or
    objects. `gpu_bytes`: memory for experts on the GPU. `history`: a calibration trace; `frequency_LE` [L, E]: its
    tokens per expert, where that is all there is. `future`: what will be demanded, for clairvoyant policies in a
    replay. `timed_as`: take another model's seconds. `clock`: what decisions are timed with. `forecaster`: as `policy`,
    for one that asks it; None: the one that it has by default. `contexts`: who knows what a forecaster may need beside
    ids (a replay's is made of `future`). `learned`: what other runs have learned (hetsched/learned.py), popularity
    among it. `recalibrate`: correct the profile's seconds by what is measured.

    `degrade`: a plug-in that raises or breaks its contract costs a plain decision (residents on the GPU, the rest on
    the CPU) and is counted in `stats.faults`; a solver gets a budget. That is for engines; without it, faults of a
    policy are raised, which is for replays and tests.

    `watch`: let simple strategies decide while the policy is measured to be worse than they would be (hetsched.shadow);
    None: in engines, for policies that declare it (Traits.watched). Moves are told in `stats.moves` and logged.
    `trial`: steps after which the best of them is measured for as many; 0: only where there is reason.
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
        forecaster: Any = None,
        contexts: Contexts | None = None,
        learned: Learned | None = None,
        watch: bool | None = None,
        trial: int = 0,
        recalibrate: bool = True,
    ) -> None:
        refuse_odd(geometry, hardware, gpu_bytes, trial, learned)
        check_frequency(frequency_LE, geometry)
        self.geometry = geometry
        self.cost = CostModel(hardware, timed_as or geometry)
        layers, experts = geometry.num_layers, geometry.num_experts
        slots = geometry.slots(gpu_bytes) if self.cost.has_gpu else 0
        self.arrays = new_board(layers, experts, slots)
        self.board = open_board(*self.arrays)
        self._status, self._sums_s = self.board.at.data[STATUS:], cast(Any, self.board.sums_s.data)  # quick to read
        self.seconds = Seconds(self.cost, self.board.machine)
        watched = self.arrays, self.cost, self.seconds
        self.recalibration = Recalibration(*watched, recalibrate, self.fault, degrade)
        self.residency = Residency(layers, experts, slots, self.board, geometry.experts_L or ())
        self.stats = RunStats(geometry.expert_bytes, self.board)
        self.policy: Policy = instance("hetsched.policies", policy)
        self.traits = traits_of(self.policy)
        plugin("hetsched.solvers", solver)
        refuse_idle_solver(self.policy, solver)
        refuse_idle_forecaster(self.policy, forecaster)
        known = contexts or (None if future is None else Replayed(future))
        self.forecaster: Forecaster | None = forecaster_of(self.policy, forecaster, known, learned)
        asked = solver if self.traits.uses_solver else NO_SOLVER
        self.solver: Solver = instance("hetsched.solvers", asked)
        self.frequency_LE = frequency_LE = known_before(frequency_LE, history, learned)
        self._degrade = degrade
        self.guard = SolverGuard(self.solver, self.fault, SOLVER_BUDGET_S) if degrade else SolverGuard(self.solver)
        setting = Setting(geometry, self.cost, slots, self.guard, frequency_LE, history, future, self.forecaster)
        self.setting = setting
        self.initial: tuple[ExpertId, ...] = tuple(self.residency.fill(self.policy.start(setting)))
        self._views = Views(self.board)
        self.watchdog = watchdog_of(self.policy, setting, watch, trial, is_engine=degrade)
        self.decider: Decider = self._decider(setting)
        paced = self.traits.is_paced and is_compiled(self.policy)
        self.pace = Pace(self.policy.pace if paced else 1)
        self._notes: LayerNotes | None = None
        if degrade and is_compiled(self.policy):
            self._noting()
        self.clock = clock
        self._step = -1
        self._layer = layers
        self._unobserved: Demand | None = None
        self._begun_step: int | None = None  # the step whose beginning has been told
        self._planned: Plan | None = None  # on the board
        self._looked = NOT_LOOKED  # ahead, in the layer under way
        self._undecided, self._last_undecided = 0, -1
        self._executed: Callable[[Outcome], None] | None = getattr(self.policy, "executed", None)
        self._new_request = False  # of the step under way
        self._next_is_new = True

    @property
    def tokens_LE(self) -> IntArray:
        """Tokens demanded of each expert so far, int64 [L, E]."""
        return self.board.seen_F.reshape(self.residency.state_LE.shape).copy()

    @property
    def tells_outcomes(self) -> bool:
        """Whether the policy wants to be told what its plans came to."""
        return self._executed is not None

    def begin_step(self, new_request: bool = False, drafting: bool = False) -> None:
        """The next step whose demands are made here is, or is not, the first of a request.

        For executors that know; where none says so, only the very first step begins one. `drafting`: it makes drafts;
        a forecaster that is told of these by `foresee` is not told of its demands, which are no text's.
        """
        self._next_is_new = new_request
        if self.can_foresee:
            self.decider.drafting = drafting  # type: ignore[attr-defined]

    def demand(
        self,
        layer: int,
        tokens_E: IntArray,
        num_tokens: int,
        phase: Phase,
        weights_E: FloatArray | None = None,
        kept_E: FloatArray | None = None,
        num_kept: float | None = None,
    ) -> Demand:
        """A Demand with its step counted here: a layer that does not follow the last one begins a new step."""
        step, new = self._step_of(layer), self._new_request
        return Demand(step, layer, phase, tokens_E, num_tokens, weights_E, new, kept_E, num_kept)

    def routed_demand(self, layer: int, phase: Phase, num_tokens: int, ids: RouterIds) -> Demand:
        """The same of a router's ids where they lie, which a compiled policy's step lists by itself."""
        step = self._step if layer > self._layer else self._step_of(layer)
        self._layer = layer
        return RoutedDemand(step, layer, phase, num_tokens, self.geometry.num_experts, self._new_request, ids)

    def step(self, demand: Demand, link: LinkState = IDLE) -> Plan:
        """Decide one layer. The residency is as if every copy of the plan had started."""
        start = self.clock()
        if demand.step != self._begun_step:
            self._begun_step = demand.step
            self.recalibration.begin_step()
            self.pace.begin_step(demand.phase)
        try:
            plan = self.decider.decide(demand, link)
        except Exception as error:  # any plug-in may fail in any way; the step must go on
            plan = self._plain(demand, error)
        if plan.solver_status and not self._status[0]:  # else it is counted already
            self.stats.record_answer(plan.solver_status)
        if self.watchdog is not None and self.watchdog.has_moved:
            self.note_moves()
        self._unobserved, self._planned = demand, plan
        plan.decision_s = self.clock() - start
        return plan

    def prefetch(self, link: LinkState = IDLE) -> Copies:
        """Learn the last plan's demand and choose copies, while the lanes work. Without it nothing is prefetched.

        Where that costs more than it gains it is not done in every step (deciders/pace.py).
        """
        demand, start = self._unobserved, self.clock()
        if demand is None:
            return Copies()
        if not self.pace.looking:
            self.clock()  # which may tell spans by their number
            self._arrive(link.arrived)
            return Copies()
        self._unobserved, gained_s = None, 0.0
        chosen: list[Fetch] = []
        try:
            gained_s = self.decider.look_ahead(demand, link, chosen)
        except Exception as error:  # as in step; copies chosen before it are good
            self._excuse(Fault.PREFETCH, error)
        took_s = self.clock() - start
        self._sums_s[S_OVERLAPPED] += took_s
        self._looked = took_s, gained_s
        return Copies(tuple(chosen), took_s)

    @property
    def can_foresee(self) -> bool:
        """Whether the forecaster asks for drafts between steps; a policy in Python is not asked for copies there."""
        return bool(getattr(self.decider, "can_foresee", False))

    def foresee(self, draft_DLE: Float32Array, link: LinkState = IDLE) -> Copies:
        """Between steps: the next one verifies these tokens (see Context.draft_DLE); learn that, and choose copies.

        May be called as often as more is known. Raises InputError for a draft of another shape.
        """
        start, decider, shape = self.clock(), self.decider, (self.geometry.num_layers, self.geometry.num_experts)
        if not self.can_foresee:
            return Copies()
        if draft_DLE.ndim != 3 or not len(draft_DLE) or draft_DLE.shape[1:] != shape:
            raise InputError(
                f"a draft of shape {draft_DLE.shape} was foreseen; it must be (tokens, {shape[0]}, {shape[1]})"
            )
        nobodys = Demand.listed(self._step, shape[0] - 1, Phase.VERIFY, [], [], len(draft_DLE), shape[1])
        self._views.tell(nobodys, link)
        chosen: list[Fetch] = []
        try:
            decider.foresee(draft_DLE, nobodys, chosen)  # type: ignore[attr-defined]
        except Exception as error:  # as in prefetch
            self._excuse(Fault.PREFETCH, error)
        return Copies(tuple(chosen), self.clock() - start)

    def observe(self, outcome: Outcome) -> None:
        """Take note of an executed plan: what the GPU ran has arrived."""
        plan, uncounted = outcome.plan, False
        demand = plan.demand
        if self._unobserved is demand:
            self._unobserved = None
            if self.pace.looking:
                self.decider.learn(demand)
            else:
                uncounted = True
        on_board = plan is self._planned  # else it was put right on the way
        if not on_board and self.residency.num_copying:
            self._arrive([run.expert for run in plan.runs if run.lane is GPU])
        notes = self._notes or self._noting()
        looked, self._looked = self._looked, NOT_LOOKED
        notes.add(outcome, on_board, uncounted, *looked)
        if self._executed is not None:
            try:
                self._executed(outcome)
            except Exception as error:  # as in learning: any plug-in may fail in any way
                self._excuse(Fault.LEARNING, error)

    def lose(self, expert: ExpertId, reason: str) -> None:
        """A copy failed, or its end was given up: the expert is absent again, and its slot free."""
        self._drop(expert)
        self.fault(Fault.COPY, f"layer {expert.layer} expert {expert.expert}: {reason}")

    def fault(self, fault: Fault, reason: str) -> None:
        """Count what was survived."""
        self.stats.record_fault(fault, reason)

    def note_moves(self) -> None:
        """Take note of strategies that now decide in place of others; a compiled replay does it in between."""
        if self.watchdog is not None:
            self.stats.moves += self.watchdog.new_moves()

    def drop_copies(self) -> None:
        """After a fault or cancellation: what had not arrived never will."""
        for expert in self.residency.copying():
            self.residency.apply(Drop(expert))
        self._layer = self.geometry.num_layers
        self._unobserved = None

    def repeat(self, layer: int) -> None:
        """The next demand is this layer's, of the step under way, once more."""
        self._layer = layer - 1

    def _arrive(self, experts: Sequence[ExpertId]) -> None:
        for expert in experts:
            if self.residency.is_copying(expert):
                self.residency.apply(Arrive(expert))

    def _step_of(self, layer: int) -> int:
        if layer <= self._layer:
            self._step += 1
            self._new_request, self._next_is_new = self._next_is_new, False
        self._layer = layer
        return self._step

    def _noting(self) -> LayerNotes:
        from .deciders.notes import LayerNotes  # numba takes long to import

        self._notes = LayerNotes(self.arrays, self.seconds, self.pace)
        return self._notes

    def _decider(self, setting: Setting) -> Decider:
        """The policy's kernels with the solver's, or its methods, those not overridden by way of its kernels."""
        policy: Any = self.policy
        if is_compiled(policy):
            from .deciders.compiled import CompiledDecider  # numba takes long to import

            solver = kernel_of(self.solver, SOLVER_BUDGET_S if self._degrade else None)
            given = self.guard, self.seconds, self.arrays, self._views, self._excuse
            kernels = policy.kernels() if self.watchdog is None else self.watchdog.watched(policy.kernels())
            compiled = CompiledDecider(kernels, solver, *given)
            if self._degrade:  # a replay may need none of its calls
                compiled.make_ready()
            return compiled
        from .deciders.methods import give_methods
        from .deciders.python import PythonDecider

        give_methods(policy, setting)
        return PythonDecider(policy, self.residency, self.arrays, self._views, self._excuse)

    def _plain(self, demand: Demand, error: Exception) -> Plan:
        """In place of a decision that failed, which has changed nothing: residents stay, misses run on the CPU."""
        from .board.contract import entries

        self._excuse(Fault.POLICY, error)
        in_a_row = self._last_undecided == self.stats.layers - 1
        self._undecided, self._last_undecided = self._undecided + 1 if in_a_row else 1, self.stats.layers
        if self._undecided == WARN_AFTER:
            said = f"policy {self.policy.name} failed {WARN_AFTER} layers in a row, residents stay as they are"
            warnings.warn(f"{said}: {story(error)}", RuntimeWarning, stacklevel=2)
        entries.plain(*self.arrays, self.seconds.table(demand.num_tokens))
        return self._views.plan(demand)

    def _excuse(self, fault: Fault, error: Exception) -> None:
        """Count an error of a plug-in, or raise it where it is the user's or where that is what was asked for."""
        if not self._degrade or isinstance(error, InputError):
            raise error
        self.fault(fault, f"{self.policy.name}: {story(error)}")

    def _drop(self, expert: ExpertId) -> None:
        if self.residency.is_copying(expert):
            self.residency.apply(Drop(expert))
