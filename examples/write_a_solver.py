"""A dispatch solver of your own, tested and compared: python examples/write_a_solver.py"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hetsched.dispatch.contest import contest
from hetsched.dispatch.instances import random_problem
from hetsched.dispatch.problem import Device, DispatchProblem
from hetsched.dispatch.solver import Solution, Status, incumbent_solution
from hetsched.testing.solvers import LAWS

Choice: TypeAlias = npt.NDArray[np.int8]


class StepByStep:
    """From the incumbent, the one change of one expert's device that helps most, until none does."""

    name = "step-by-step"

    def solve(self, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
        if time_limit_s is not None and time_limit_s <= 0:
            return incumbent_solution(problem)
        best_N = problem.incumbent()
        best_s = problem.objective_s(best_N)
        while True:
            tried = [choice_N for choice_N in neighbours(best_N) if problem.is_feasible(choice_N)]
            found_s = [problem.objective_s(choice_N) for choice_N in tried]
            if not tried or min(found_s) >= best_s:
                break
            best_s = min(found_s)
            best_N = tried[found_s.index(best_s)]
        return Solution(Status.FEASIBLE, best_N, best_s, bound_s=-np.inf)  # it proves nothing


def neighbours(choice_N: Choice) -> list[Choice]:
    """Every choice with one expert elsewhere."""
    changes = [(i, device) for i, now in enumerate(choice_N) for device in Device if device != now]
    found = [choice_N.copy() for _ in changes]
    for other_N, (i, device) in zip(found, changes, strict=True):
        other_N[i] = device
    return found


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    for law in LAWS:
        for _ in range(40):
            law(StepByStep(), random_problem(rng, 7))
        print("holds:", law.__name__.replace("_", " "))
    problems = [random_problem(rng, 12) for _ in range(60)]
    for row in contest([StepByStep, "exact", "sort", "greedy-dali"], problems).rows():
        print(f"{row.solver:14} mean {row.mean_ratio:.4f}, worst {row.worst_ratio:.4f} times the optimum")
