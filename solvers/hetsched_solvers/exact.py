"""Exact dispatch with a certificate, in microseconds: the project's own solver.

Shapes: N experts under decision (lanes.py has the others).
"""

from __future__ import annotations

import time

import numpy as np

from hetsched.problem import DispatchProblem
from hetsched.solver import Solution, Status, incumbent_solution

from .arrivals import dispatch
from .jit import COMPILED

UNLIMITED = 1 << 40
NODES = 100_000 if COMPILED else 2_000  # about as long: some milliseconds
WIDE_GAP, AGAIN = 5e-3, 10  # a gap this wide, one problem in a thousand, is worth ten times the effort
NODES_PER_S = 10_000_000 if COMPILED else 100_000  # what a time limit is worth; cautious, so that it is kept


class Exact:
    """Optimal dispatch by Lagrangian bounds over the number of fetches and exhaustive search of what they leave open.

    Up to `always_prove` experts every answer is proved; above, the search stops after `max_nodes` trials and the answer
    carries its gap. A time limit only lowers the number of trials, so the same call always gets the same answer.
    """

    name = "exact"

    def __init__(self, max_nodes: int = NODES, always_prove: int = 16) -> None:
        self.max_nodes = max_nodes
        self.always_prove = always_prove
        dispatch(np.zeros(0), 0, 0.0, 0.0, 1)  # compiled here (or read from disk), not in the first step

    def solve(self, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
        """The best choice and a lower bound; the incumbent when there is no time at all."""
        start = time.perf_counter()
        packed = problem.packed
        max_nodes = UNLIMITED if problem.size <= self.always_prove else self.max_nodes
        if time_limit_s is not None:
            if time_limit_s <= 0:
                return incumbent_solution(problem, "no time to solve")
            max_nodes = min(max_nodes, 1 + int(min(time_limit_s, 1e3) * NODES_PER_S))
        arguments = (packed, problem.size, problem.link_free_s, problem.roundtrip_s)
        choice_N, objective_s, bound_s, _ = dispatch(*arguments, max_nodes)
        if time_limit_s is None and objective_s - bound_s > WIDE_GAP * problem.makespan_s(choice_N):
            choice_N, objective_s, bound_s, _ = dispatch(*arguments, AGAIN * max_nodes)
        status = Status.OPTIMAL if bound_s == objective_s else Status.FEASIBLE
        return Solution(status, choice_N, objective_s, bound_s, time.perf_counter() - start)
