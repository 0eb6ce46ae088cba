"""Exact dispatch with a certificate, in microseconds: the project's own solver.

Shapes: N experts under decision (lanes.py has the others).
"""

from __future__ import annotations

import time

import numpy as np

from hetsched.dispatch.problem import DispatchProblem, judging
from hetsched.dispatch.solver import Solution, Status, incumbent_solution
from hetsched.jit import announced
from hetsched.types import FloatArray

from .arrivals import solve_packed

UNLIMITED = 1 << 40
NODES = 200_000  # some milliseconds
WIDE_GAP, AGAIN = 5e-3, 10  # a gap this wide, one problem in a thousand, is worth ten times the effort
NODES_PER_S = 10_000_000  # what a time limit is worth; cautious, so that it is kept
NOWHERE = np.zeros(0, np.int8)  # to start from
APART, GOLDEN = 1e-2, (5**0.5 - 1) / 2


class Exact:
    """Optimal dispatch by Lagrangian bounds over the number of fetches and exhaustive search of what they leave open.

    Up to `always_prove` experts every answer is proved; above, the search stops after `max_nodes` trials and the answer
    carries its gap. A time limit only lowers the number of trials, so the same call always gets the same answer.
    """

    name = "exact"

    def __init__(self, max_nodes: int = NODES, always_prove: int = 16) -> None:
        self.max_nodes = max_nodes
        self.always_prove = always_prove
        with announced("hetsched: compiling the exact solver once, 15 to 40 s ..."):
            judging()
            solve_packed(
                np.zeros(0), 0, 0.0, 0.0, 0.0, NOWHERE, 1
            )  # compiled here (or read from disk), not in the first step

    def solve(self, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
        """The best choice and a lower bound; the incumbent when there is no time at all."""
        start = time.perf_counter()
        packed = problem.packed
        max_nodes = UNLIMITED if problem.size <= self.always_prove else self.max_nodes
        if time_limit_s is not None:
            if time_limit_s <= 0:
                return incumbent_solution(problem, "no time to solve")
            max_nodes = min(max_nodes, 1 + int(min(time_limit_s, 1e3) * NODES_PER_S))
        lanes = (problem.size, *problem.numbers)
        choice_N, objective_s, bound_s, _ = solve_packed(packed, *lanes, NOWHERE, max_nodes)
        if bound_s == objective_s:
            return Solution(Status.OPTIMAL, choice_N, objective_s, bound_s, time.perf_counter() - start)
        if time_limit_s is None and objective_s - bound_s > WIDE_GAP * (makespan_s := problem.makespan_s(choice_N)):
            apart = without_ties(packed, problem.size, makespan_s)
            other_N, _, _, _ = solve_packed(apart, *lanes, choice_N, max_nodes)
            if problem.objective_s(other_N) < objective_s:
                choice_N = other_N
            first_bound_s = bound_s
            choice_N, objective_s, bound_s, _ = solve_packed(packed, *lanes, choice_N, AGAIN * max_nodes)
            bound_s = min(max(bound_s, first_bound_s), objective_s)
        status = Status.OPTIMAL if bound_s == objective_s else Status.FEASIBLE
        return Solution(status, choice_N, objective_s, bound_s, time.perf_counter() - start)


def without_ties(packed: FloatArray, size: int, makespan_s: float) -> FloatArray:
    """The problem with every time a little longer, each by another amount.

    The Lagrangian minimiser sends experts of equal score all the same way, so that among many equals no good choice
    comes up; here some of them go each way.
    """
    apart = packed.copy()
    share_5N = np.arange(5 * size) * GOLDEN % 1.0
    share_5N[2 * size : 3 * size] = 0.0  # utilities are no times
    share_5N[4 * size :] = 0.0  # nor does it matter when an expert arrives
    apart[: 5 * size] += APART * makespan_s / size * share_5N
    return apart
