"""What all rules share: no bound, no search, one choice. Lists, as they go through experts one at a time.

Shapes: N experts under decision.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from math import inf

import numpy as np
import numpy.typing as npt

from hetsched.dispatch.problem import Device, DispatchProblem
from hetsched.dispatch.solver import Solution, Status, incumbent_solution


class Rule(ABC):
    """A solver without a bound: subclasses give the choice. The demand n is not in a problem; cpu_s_N stands for it."""

    name = "rule"

    @abstractmethod
    def choose(self, problem: DispatchProblem) -> npt.NDArray[np.int8]:
        """The device of each expert, int8 [N]; must be feasible."""

    def solve(self, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
        """The rule's choice, even where the incumbent is better: the guard deals with that."""
        start = time.perf_counter()
        problem.validate()
        if time_limit_s is not None and time_limit_s <= 0:
            return incumbent_solution(problem, "no time to solve")
        choice_N = self.choose(problem)
        objective_s = problem.objective_s(choice_N)
        return Solution(Status.FEASIBLE, choice_N, objective_s, -np.inf, time.perf_counter() - start)


def keep_here(problem: DispatchProblem) -> npt.NDArray[np.int8]:
    """Residents on the GPU; experts in flight too, where waiting for them takes less time than the CPU."""
    waiting_N = problem.ready_s_N + problem.gpu_s_N <= problem.cpu_s_N
    return np.where((problem.ready_s_N == 0) | waiting_N, Device.GPU, Device.CPU).astype(np.int8)


def fetchable(problem: DispatchProblem) -> list[int]:
    """Experts that may be fetched, those with the most work first."""
    may_N = np.isinf(problem.ready_s_N) & np.isfinite(problem.copy_s_N)
    order = np.argsort(-problem.cpu_s_N, kind="stable")
    return [i for i in order.tolist() if may_N[i]]


def missing(problem: DispatchProblem) -> list[int]:
    """Experts that are neither resident nor in flight, those with the most work first."""
    order = np.argsort(-problem.cpu_s_N, kind="stable").tolist()
    return [i for i in order if problem.ready_s_N[i] == inf]
