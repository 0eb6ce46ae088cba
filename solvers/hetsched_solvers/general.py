"""What the general solvers share: from a linear program's answer to a Solution, with an honest bound."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from hetsched.dispatch.problem import DispatchProblem
from hetsched.dispatch.solver import Solution, Status, incumbent_solution
from hetsched.types import FloatArray

from .linear import LinearProgram, linear_program

DEFAULT_LIMIT_S = 10.0


class Answer(NamedTuple):
    """What a solver library returned: values of the columns (None: none), bound in units, proved, words for people."""

    value_C: FloatArray | None
    bound: float
    proved: bool
    note: str


class GeneralSolver:
    """A solver library behind the Solver protocol: subclasses answer a linear program.

    The better of its answer and the incumbent is returned. Where it proves its answer optimal, the bound is that
    answer's recomputed objective; otherwise the library's own bound, lowered by its tolerance.
    """

    name = "general"
    size_of_t = 1.0  # makespan in the program's units: against the library's absolute tolerances
    tolerance = 1e-9  # relative to the longest useful makespan

    def answer(self, program: LinearProgram, time_limit_s: float) -> Answer:
        """Solve the program within the limit."""
        raise NotImplementedError

    def solve(self, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
        """The library's answer; the incumbent when there is no time, nothing to decide, or no answer."""
        start = time.perf_counter()
        problem.validate()
        if time_limit_s is not None and time_limit_s <= 0:
            return incumbent_solution(problem, "no time to solve")
        program = linear_program(problem, self.size_of_t)
        if program.movable == 0:
            fallback = incumbent_solution(problem, "nothing to decide")
            return Solution(Status.OPTIMAL, fallback.choice_N, fallback.objective_s, fallback.objective_s)
        answer = self.answer(program, DEFAULT_LIMIT_S if time_limit_s is None else time_limit_s)
        return _solution(program, answer, self.tolerance * self.size_of_t, time.perf_counter() - start)


def _solution(program: LinearProgram, answer: Answer, slack: float, took_s: float) -> Solution:
    problem = program.problem
    best = incumbent_solution(problem, answer.note)
    choice_N, objective_s = best.choice_N, best.objective_s
    if answer.value_C is not None:
        found_N = program.choice(answer.value_C[: program.movable] > 0.5)
        if problem.is_feasible(found_N) and (found_s := problem.objective_s(found_N)) <= objective_s:
            choice_N, objective_s = found_N, found_s
    if answer.proved:
        return Solution(Status.OPTIMAL, choice_N, objective_s, objective_s, took_s, answer.note)
    bound_s = (answer.bound - slack) * program.unit_s if np.isfinite(answer.bound) else -np.inf
    return Solution(Status.FEASIBLE, choice_N, objective_s, min(bound_s, objective_s), took_s, answer.note)
