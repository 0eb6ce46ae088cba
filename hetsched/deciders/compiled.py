"""CompiledDecider: a policy that supplies kernels; a layer is two calls of them."""

from __future__ import annotations

import numpy as np

from ..board import (
    ACTIVE,
    GPU_CALL_S,
    LIMIT_NODES,
    MAX_NODES,
    PLACES,
    PREDICTED_S,
    PROBLEM_CPU_S,
    PROBLEM_LINK_S,
    PROVE,
    Arrays,
    Board,
    open_board,
)
from ..board.seconds import Seconds
from ..dispatch.answers import SolverKernel
from ..dispatch.guard import SolverGuard
from ..dispatch.problem import DispatchProblem
from ..faults import Fault
from ..jit import announced, types_of
from ..policies.compiled import ASKS, PolicyKernels, compiled_policy, never
from ..types import Demand, Fetch, Float32Array, LinkState, Plan
from . import Excuse
from .one_call import OneCall
from .views import Views


class CompiledDecider:
    """Calls the kernels of `kernels`; a solver that is not compiled is asked in between, under its guard."""

    def __init__(
        self,
        kernels: PolicyKernels,
        solver: SolverKernel | None,
        guard: SolverGuard,
        seconds: Seconds,
        arrays: Arrays,
        views: Views,
        excuse: Excuse,
    ) -> None:
        self.calls = compiled_policy(kernels, solver)
        self._guard = guard
        self._seconds = seconds
        self._arrays = arrays
        self._board = open_board(*arrays)
        self._views = views
        self._excuse = excuse
        self.drafting = False  # layers are of a pass that makes drafts, which a forecaster is told of otherwise
        self._one: OneCall | None = None  # a replay in one kernel needs none
        if solver is not None:
            effort = solver.max_nodes, solver.always_prove, solver.limit_nodes
            self._board.at[[MAX_NODES, PROVE, LIMIT_NODES]] = effort

    def make_ready(self) -> None:
        """Compile now what the first layer would else wait for, or read it from disk."""
        calls = self.calls
        own, known = calls.kernels.own, calls.kernels.known
        given = (*self._arrays, self._seconds.table(1), own)
        with announced(f"hetsched: compiling policy {calls.kernels.name} once, 10 to 20 s ..."):
            calls.step.compile(types_of(*given))
            calls.ahead.compile(types_of(*given, known, True, True))
            self._one_call()
            if calls.kernels.answer is not never and calls.solver is None:
                calls.resume.compile(types_of(*given))

    def decide(self, demand: Demand, link: LinkState) -> Plan:
        """One compiled call; two where a solver in Python comes between."""
        one = self._one or self._one_call()
        wrong = one.step(demand, link)
        if wrong == ASKS:
            return self._answered(demand)
        if wrong:
            self.refuse(wrong)
        return one.plan(demand)

    def _answered(self, demand: Demand) -> Plan:
        """The same by a solver in Python, whose problem is on the board."""
        calls = self.calls
        said = self._ask()
        self.refuse(calls.resume(*self._arrays, self._seconds.table(demand.num_tokens), calls.kernels.own))
        plan = self._views.plan(demand)
        plan.solver_status = said
        return plan

    def _one_call(self) -> OneCall:
        if self._one is None:
            self._one = OneCall(self.calls, self._arrays, self._seconds, self._views)
        return self._one

    def learn(self, demand: Demand) -> None:
        """One compiled call, which chooses nothing."""
        self._observed(demand)
        self._ahead(demand, True, False)

    def look_ahead(self, demand: Demand, link: LinkState, chosen: list[Fetch]) -> float:
        """One compiled call."""
        if self.calls.kernels.observe is not None:
            self._observed(demand)
        one = self._one or self._one_call()
        wrong = one.ahead(demand, link)
        copies, gained_s = one.copies()
        chosen += copies
        if wrong:
            self.refuse(wrong)
        return gained_s

    @property
    def can_foresee(self) -> bool:
        """Whether the forecaster asks for drafts between steps."""
        return self.calls.kernels.foresee is not None

    def foresee(self, draft_DLE: Float32Array, demand: Demand, chosen: list[Fetch]) -> None:
        """Tell it, and choose copies as after a layer with this demand, which is nobody's."""
        foresee = self.calls.kernels.foresee
        assert foresee is not None, "ask can_foresee first"
        foresee(draft_DLE)
        self._board.now[PREDICTED_S] = 0.0
        self.choose(demand, chosen)

    def refuse(self, wrong: int) -> None:
        """Raise for what the contract has against a decision of the kernels'."""
        self._views.refuse(wrong, self.calls.kernels.name)

    def choose(self, demand: Demand, chosen: list[Fetch]) -> None:
        """Copies alone, for a demand that has been learned."""
        wrong = self._ahead(demand, False, True)
        chosen += self._views.copies()
        self.refuse(wrong)

    def _observed(self, demand: Demand) -> None:
        observe = self.calls.kernels.observe
        if observe is not None and not self.drafting:
            try:
                observe(demand)
            except Exception as error:  # any plug-in may fail in any way; this layer is not learned
                self._excuse(Fault.LEARNING, error)

    def _ahead(self, demand: Demand, learning: bool, choosing: bool) -> int:
        calls, seconds_4T = self.calls, self._seconds.table(demand.num_tokens)
        given = *self._arrays, seconds_4T, calls.kernels.own, calls.kernels.known
        return int(calls.ahead(*given, learning, choosing))

    def _ask(self) -> str:
        """Have the problem on the board answered; what is known of the answer."""
        board, problem = self._board, posed_on(self._board)
        found, size = self._guard.solve(problem), problem.size
        board.choice_N[:size] = np.asarray(found.choice_N)
        board.now[PREDICTED_S] = found.makespan_s
        return found.fallback.value if found.fallback else found.status.name


def posed_on(board: Board) -> DispatchProblem:
    """The dispatch problem that a policy's kernel has posed."""
    size, places = int(board.at[ACTIVE]), int(board.at[PLACES])
    gpu, cpu, utility, copy, ready = board.packed_P[: 5 * size].reshape(5, size).copy()
    prices = board.packed_P[5 * size : 5 * size + places].copy()
    link_s, start_s = float(board.now[PROBLEM_LINK_S]), float(board.now[PROBLEM_CPU_S])
    call_s = float(board.machine[GPU_CALL_S])
    return DispatchProblem(gpu, cpu, copy, ready, utility, prices, link_s, start_s, call_s)
