"""Solver protocol, Solution, and the guard that never trusts a solver's claim."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from .problem import DispatchProblem

REL_TOL = 1e-9


class Status(Enum):
    """What is known of an answer; whether there is one is never in doubt, the incumbent always exists."""

    OPTIMAL = "proved optimal"
    FEASIBLE = "feasible, with the stated gap"
    INCUMBENT = "the incumbent: the solver gave no usable answer in time"


class Fallback(Enum):
    """Why the guard answered with the incumbent; the values are the words that statistics count."""

    NO_TIME = "no time"
    RAISED = "raised"
    LATE = "late"
    INFEASIBLE = "infeasible"
    WORSE = "worse than the incumbent"


@dataclass(frozen=True, init=False)
class Solution:
    """An answer and what is known of it.

    `choice_N` int8 (problem.Device), `objective_s` and `bound_s` in seconds with bound_s <= objective_s, `solve_s` on
    the host's clock, `note` for people. The guard adds `makespan_s` (NaN: nobody computed it) and, where it dropped the
    solver's answer, the reason: `fallback`.
    """

    status: Status
    choice_N: npt.NDArray[np.int8]
    objective_s: float
    bound_s: float
    solve_s: float = 0.0
    note: str = ""
    makespan_s: float = math.nan
    fallback: Fallback | None = None

    def __init__(
        self,
        status: Status,
        choice_N: npt.NDArray[np.int8],
        objective_s: float,
        bound_s: float,
        solve_s: float = 0.0,
        note: str = "",
        makespan_s: float = math.nan,
        fallback: Fallback | None = None,
    ) -> None:
        fields = self.__dict__  # the way of frozen dataclasses takes three times as long, and each decision makes two
        fields["status"], fields["choice_N"], fields["objective_s"] = status, choice_N, objective_s
        fields["bound_s"], fields["solve_s"], fields["note"] = bound_s, solve_s, note
        fields["makespan_s"], fields["fallback"] = makespan_s, fallback


@runtime_checkable
class Solver(Protocol):
    """One method. Tuning belongs in the constructor; a solver keeps no state that changes its answers."""

    name: str

    def solve(self, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
        """Answer within `time_limit_s` (advice; None: the solver's own). Must not change the problem's arrays."""
        ...


def incumbent_solution(problem: DispatchProblem, note: str = "") -> Solution:
    """The answer that is always there: misses on the CPU, residents where they are."""
    return Solution(Status.INCUMBENT, problem.incumbent(), problem.incumbent_s, -math.inf, note=note)


def solve_guarded(solver: Solver, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
    """Run a solver, recompute what it claims, and fall back on the incumbent where the claim does not hold.

    A late answer (over `time_limit_s`) is dropped. An exception becomes a note, never an interruption of the step.
    Every fallback names its reason. Raises InputError naming the field, before the solver runs, when the problem itself
    is malformed.
    """
    problem.validate()
    start = time.perf_counter()
    if time_limit_s is not None and time_limit_s <= 0:
        return _incumbent(problem, Fallback.NO_TIME, "no time to solve", start)
    try:
        found = solver.solve(problem, time_limit_s=time_limit_s)
    except Exception as error:  # any plug-in may fail in any way; the step must go on, and the note says why
        return _incumbent(problem, Fallback.RAISED, f"{solver.name} raised {type(error).__name__}: {error}", start)
    took_s = time.perf_counter() - start
    if time_limit_s is not None and took_s > time_limit_s:
        note = f"{solver.name} answered after {took_s:.3g} s, limit {time_limit_s:.3g} s"
        return _incumbent(problem, Fallback.LATE, note, start)
    return _checked(solver, problem, found, start)


def _checked(solver: Solver, problem: DispatchProblem, found: Solution, start: float) -> Solution:
    choice_N = found.choice_N
    feasible, makespan_s, prices_s, incumbent_s = problem.verdict(choice_N)
    if not feasible:
        return _incumbent(problem, Fallback.INFEASIBLE, f"{solver.name} gave an infeasible choice", start)
    objective_s = makespan_s + prices_s
    if not objective_s <= incumbent_s:
        return _incumbent(problem, Fallback.WORSE, f"{solver.name} was worse than the incumbent", start)
    status, bound_s, note = found.status, found.bound_s, found.note
    tolerance_s = REL_TOL * max(abs(objective_s), makespan_s)
    if not bound_s <= objective_s + tolerance_s:
        status, bound_s, note = Status.FEASIBLE, -math.inf, f"{solver.name} claimed a bound above its objective"
    elif status is Status.OPTIMAL and bound_s < objective_s - tolerance_s:
        status, note = Status.FEASIBLE, f"{solver.name} claimed an optimum that its bound does not prove"
    took_s = time.perf_counter() - start
    return Solution(status, choice_N, objective_s, min(bound_s, objective_s), took_s, note, makespan_s)


def _incumbent(problem: DispatchProblem, fallback: Fallback, note: str, start: float) -> Solution:
    choice_N = problem.incumbent()
    makespan_s = objective_s = problem.incumbent_s  # it fetches nothing
    took_s = time.perf_counter() - start
    return Solution(Status.INCUMBENT, choice_N, objective_s, -math.inf, took_s, note, makespan_s, fallback)
