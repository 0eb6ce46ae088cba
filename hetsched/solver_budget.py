"""A budget for a solver that is not to be trusted with one."""

from __future__ import annotations

import time

from .faults import Fault, Tell, story
from .problem import DispatchProblem
from .solver import Solution, Solver, incumbent_solution

SOLVER_BUDGET_S = 0.1  # of one decision in a running engine; the exact solver needs a thousandth of it
LATE_IN_A_ROW, REST = 3, 64  # answers past the budget until a solver rests, and for how many decisions


class Budgeted:
    """A solver told to answer within `budget_s`; what comes later is dropped, and who is late again and again rests.

    Python cannot end a call that never returns: such a solver holds its caller until Ctrl-C. A thread of its own would
    cost each decision more than it takes (some 50 µs), and be left behind all the same.
    """

    def __init__(self, solver: Solver, tell: Tell, budget_s: float = SOLVER_BUDGET_S) -> None:
        self.name = solver.name
        self._solver = solver
        self._tell = tell
        self._budget_s = budget_s
        self._late = 0
        self._rest = 0

    def solve(self, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
        """The solver's answer, or the incumbent. Raises what the solver raises, told first."""
        if self._rest:
            self._rest -= 1
            return incumbent_solution(problem, f"{self.name} rests")
        limit_s = self._budget_s if time_limit_s is None else min(time_limit_s, self._budget_s)
        start_s = time.perf_counter()
        try:
            found = self._solver.solve(problem, time_limit_s=limit_s)
        except Exception as error:
            self._tell(Fault.SOLVER_RAISED, f"{self.name} raised {story(error)}")
            raise
        took_s = time.perf_counter() - start_s
        if took_s <= self._budget_s:
            self._late = 0
            return found
        self._late += 1
        if self._late >= LATE_IN_A_ROW:
            self._late, self._rest = 0, REST
        note = f"{self.name} took {took_s:.3g} s of {self._budget_s:.3g} s"
        self._tell(Fault.SOLVER_LATE, note)
        return incumbent_solution(problem, note)
