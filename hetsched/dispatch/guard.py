"""The guard around a solver: it never trusts a claim, keeps the time, and always has an answer."""

from __future__ import annotations

import math
import time

from ..faults import Fault, Tell, story
from .problem import DispatchProblem
from .solver import REL_TOL, Fallback, Solution, Solver, Status

SOLVER_BUDGET_S = 0.1  # of one decision in a running engine; the exact solver needs a thousandth of it
LATE_IN_A_ROW, REST = 3, 64  # late answers until a solver rests, and for how many decisions


class SolverGuard:
    """A Solver whose answers are another's, recomputed; the incumbent where they do not hold, with the reason.

    `budget_s`: seconds for each decision, None: no limit but the caller's. What comes later is dropped, and who is late
    again and again rests. `tell` hears of answers that came late or not at all.

    Python cannot end a call that never returns: such a solver holds its caller until Ctrl-C. A thread of its own would
    cost each decision more than it takes (some 50 µs), and be left behind all the same.
    """

    def __init__(self, solver: Solver, tell: Tell = lambda fault, reason: None, budget_s: float | None = None) -> None:
        self.name = solver.name
        self._solver = solver
        self._tell = tell
        self._budget_s = budget_s
        self._late = 0
        self._rest = 0

    def solve(self, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
        """The solver's answer with recomputed claims, or the incumbent; an exception becomes a note.

        Raises InputError naming the field, before the solver runs, when the problem itself is malformed.
        """
        problem.validate()
        start_s = time.perf_counter()
        if time_limit_s is not None and time_limit_s <= 0:
            return _incumbent(problem, Fallback.NO_TIME, "no time to solve", start_s)
        if self._rest:
            self._rest -= 1
            return _incumbent(problem, Fallback.RESTING, f"{self.name} rests", start_s)
        limit_s = self._limit_s(time_limit_s)
        try:
            found = self._solver.solve(problem, time_limit_s=limit_s)
        except Exception as error:  # any plug-in may fail in any way; the step must go on, and the note says why
            note = f"{self.name} raised {story(error)}"
            self._tell(Fault.SOLVER_RAISED, note)
            return _incumbent(problem, Fallback.RAISED, note, start_s)
        took_s = time.perf_counter() - start_s
        if limit_s is not None and took_s > limit_s:
            note = f"{self.name} answered after {took_s:.3g} s, limit {limit_s:.3g} s"
            self._count_late(note)
            return _incumbent(problem, Fallback.LATE, note, start_s)
        self._late = 0
        return _checked(self.name, problem, found, start_s)

    def _limit_s(self, time_limit_s: float | None) -> float | None:
        """What the solver is told: the caller's limit or the budget, whichever is less."""
        if self._budget_s is None or time_limit_s is None:
            return self._budget_s if time_limit_s is None else time_limit_s
        return min(time_limit_s, self._budget_s)

    def _count_late(self, note: str) -> None:
        self._late += 1
        if self._late >= LATE_IN_A_ROW:
            self._late, self._rest = 0, REST
        self._tell(Fault.SOLVER_LATE, note)


def solve_guarded(solver: Solver, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
    """One answer of a solver under guard; see SolverGuard.solve."""
    return SolverGuard(solver).solve(problem, time_limit_s=time_limit_s)


def _checked(name: str, problem: DispatchProblem, found: Solution, start_s: float) -> Solution:
    choice_N = found.choice_N
    feasible, makespan_s, prices_s, incumbent_s = problem.verdict(choice_N)
    if not feasible:
        return _incumbent(problem, Fallback.INFEASIBLE, f"{name} gave an infeasible choice", start_s)
    objective_s = makespan_s + prices_s
    if not objective_s <= incumbent_s:
        return _incumbent(problem, Fallback.WORSE, f"{name} was worse than the incumbent", start_s)
    status, bound_s, note = found.status, found.bound_s, found.note
    tolerance_s = REL_TOL * max(abs(objective_s), makespan_s)
    if not bound_s <= objective_s + tolerance_s:
        status, bound_s, note = Status.FEASIBLE, -math.inf, f"{name} claimed a bound above its objective"
    elif status is Status.OPTIMAL and bound_s < objective_s - tolerance_s:
        status, note = Status.FEASIBLE, f"{name} claimed an optimum that its bound does not prove"
    took_s = time.perf_counter() - start_s
    return Solution(status, choice_N, objective_s, min(bound_s, objective_s), took_s, note, makespan_s)


def _incumbent(problem: DispatchProblem, fallback: Fallback, note: str, start_s: float) -> Solution:
    choice_N = problem.incumbent()
    makespan_s = objective_s = problem.incumbent_s  # it fetches nothing
    took_s = time.perf_counter() - start_s
    return Solution(Status.INCUMBENT, choice_N, objective_s, -math.inf, took_s, note, makespan_s, fallback)
