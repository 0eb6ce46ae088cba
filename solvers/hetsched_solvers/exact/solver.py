"""Exact dispatch with a certificate, in microseconds: the project's own solver.

Shapes: N experts under decision (lanes.py has the others).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from hetsched.dispatch.answers import SolverKernel
from hetsched.dispatch.judge import seconds
from hetsched.dispatch.problem import DispatchProblem, judging
from hetsched.dispatch.solver import Solution, Status, incumbent_solution
from hetsched.jit import announced, compiled, compiled_by_name, source_stamp
from hetsched.types import FloatArray

from .arrivals import solve_packed
from .lanes import Bits

UNLIMITED = 1 << 40
NODES = 200_000  # some milliseconds
WIDE_GAP, AGAIN = 5e-3, 10  # a gap this wide, one problem in a thousand, is worth ten times the effort
NODES_PER_S = 10_000_000  # what a time limit is worth; cautious, so that it is kept
SIGNATURE = "(float64[::1], int64, float64, float64, float64, int64, int64, int64)"  # SolverKernel.solve
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
        with announced("hetsched: compiling the exact solver once, 10 to 20 s ..."):
            judging()
            answer(np.zeros(0), 0, 0.0, 0.0, 0.0, 1, 0, 0)  # compiled here (or read from disk), not in the first step

    def solve(self, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
        """The best choice and a lower bound; the incumbent when there is no time at all."""
        start = time.perf_counter()
        if time_limit_s is not None and time_limit_s <= 0:
            return incumbent_solution(problem, "no time to solve")
        kernel = self.kernel(time_limit_s)
        choice_N, objective_s, bound_s = answer(problem.packed, problem.size, *problem.numbers, *kernel[3:])
        status = Status.OPTIMAL if bound_s == objective_s else Status.FEASIBLE
        return Solution(status, choice_N, objective_s, bound_s, time.perf_counter() - start)

    def kernel(self, time_limit_s: float | None) -> SolverKernel:
        """The same, for a step to be compiled with."""
        limit_nodes = 0 if time_limit_s is None else 1 + int(min(time_limit_s, 1e3) * NODES_PER_S)
        return SolverKernel(self.name, SOURCES, answer, self.max_nodes, self.always_prove, limit_nodes)


@compiled
def without_ties(packed: FloatArray, size: int, makespan_s: float) -> FloatArray:
    """The problem with every time a little longer, each by another amount.

    The Lagrangian minimiser sends experts of equal score all the same way, so that among many equals no good choice
    comes up; here some of them go each way.
    """
    apart = packed.copy()
    for i in range(4 * size):
        if not 2 * size <= i < 3 * size:  # utilities are no times; nor does it matter when an expert arrives
            apart[i] += APART * makespan_s / size * (i * GOLDEN % 1.0)
    return apart


def _answering(stamp: int) -> Callable[..., tuple[Bits, float, float]]:
    @compiled_by_name(SIGNATURE)
    def answer(
        packed: FloatArray,
        size: int,
        link_free_s: float,
        roundtrip_s: float,
        gpu_call_s: float,
        max_nodes: int,
        always_prove: int,
        limit_nodes: int,
    ) -> tuple[Bits, float, float]:
        """As SolverKernel.solve. Without a limit, an answer with a wide gap gets a second try and more effort."""
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        nodes = UNLIMITED if size <= always_prove else max_nodes
        if limit_nodes:
            nodes = min(nodes, limit_nodes)
        lanes = size, link_free_s, roundtrip_s, gpu_call_s
        nowhere = np.zeros(0, np.int8)
        choice_N, objective_s, bound_s, _ = solve_packed(packed, *lanes, nowhere, nodes)
        if bound_s == objective_s or limit_nodes:
            return choice_N, objective_s, bound_s
        makespan_s, _ = seconds(packed, *lanes, choice_N)
        if objective_s - bound_s > WIDE_GAP * makespan_s:
            apart = without_ties(packed, size, makespan_s)
            other_N, _, _, _ = solve_packed(apart, *lanes, choice_N, nodes)
            other_s, prices_s = seconds(packed, *lanes, other_N)
            if other_s + prices_s < objective_s:
                choice_N = other_N
            first_bound_s = bound_s
            choice_N, objective_s, bound_s, _ = solve_packed(packed, *lanes, choice_N, AGAIN * nodes)
            bound_s = min(max(bound_s, first_bound_s), objective_s)
        return choice_N, objective_s, bound_s

    return answer


SOURCES = (
    *(f"hetsched_solvers.exact.{name}" for name in ("lanes", "dual", "flips", "polish", "branch", "arrivals")),
    "hetsched_solvers.exact.solver",
    "hetsched.dispatch.judge",
)
answer = _answering(source_stamp(*SOURCES))
