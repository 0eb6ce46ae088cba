"""Solver protocol and Solution; solver_guard.py trusts neither."""

from __future__ import annotations

import math
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
    RESTING = "resting"
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
