"""Every choice, one after another: the oracle of tests. Nothing here is clever, so that nothing can be wrong."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from hetsched.dispatch.problem import Device, DispatchProblem
from hetsched.dispatch.solver import Solution, Status, incumbent_solution
from hetsched.errors import InputError

MAX_SIZE = 16


class Brute:
    """Tries all choices with DispatchProblem's own objective. Raises InputError above 16 experts."""

    name = "brute"

    def solve(self, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
        """The optimum. The limit is ignored, except that zero is answered with the incumbent."""
        problem.validate()
        if time_limit_s is not None and time_limit_s <= 0:
            return incumbent_solution(problem, "no time to solve")
        if problem.size > MAX_SIZE:
            raise InputError(f"brute tries 2^{problem.size} choices; it takes at most {MAX_SIZE} experts")
        devices = [(Device.CPU, Device.GPU if ready < np.inf else Device.FETCH) for ready in problem.ready_s_N]
        best_N, best_s = problem.incumbent(), problem.incumbent_s
        for devices_N in itertools.product(*devices):
            choice_N: npt.NDArray[np.int8] = np.array(devices_N, dtype=np.int8)
            if problem.is_feasible(choice_N) and (objective_s := problem.objective_s(choice_N)) < best_s:
                best_N, best_s = choice_N, objective_s
        return Solution(Status.OPTIMAL, best_N, best_s, best_s)
