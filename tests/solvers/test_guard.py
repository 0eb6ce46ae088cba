"""The guard believes nothing, and malformed problems are refused before any solver runs."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from hetsched.dispatch.guard import solve_guarded
from hetsched.dispatch.instances import random_problem
from hetsched.dispatch.problem import Device, DispatchProblem, frozen
from hetsched.dispatch.solver import Fallback, Solution, Solver, Status
from hetsched.errors import InputError
from hetsched.testing.solvers import LAWS, Law, feasible, optimal_means_optimal
from hetsched_solvers.exact.solver import Exact

PROBLEM = random_problem(np.random.default_rng(2), 6, "different")


class Claims:
    """A solver that claims whatever it was told to."""

    name = "claims"

    def __init__(self, choice_N: object, objective_s: float = -1.0, bound_s: float = -np.inf, delay_s: float = 0.0):
        self.answer = Solution(Status.OPTIMAL, choice_N, objective_s, bound_s)  # type: ignore[arg-type]
        self.delay_s = delay_s
        self.calls = 0

    def solve(self, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
        """The claim, late if so told."""
        self.calls += 1
        time.sleep(self.delay_s)
        return self.answer


class Raises:
    """A solver that fails."""

    name = "raises"

    def solve(self, problem: DispatchProblem, *, time_limit_s: float | None = None) -> Solution:
        """Never answers."""
        raise RuntimeError("out of luck")


def test_objective_is_recomputed() -> None:
    """A claimed objective of -1 s does not survive, nor does a claimed optimum without a bound."""
    choice_N = Exact().solve(PROBLEM).choice_N
    found = solve_guarded(Claims(choice_N), PROBLEM)
    assert found.objective_s == PROBLEM.objective_s(choice_N)
    assert found.makespan_s == PROBLEM.makespan_s(choice_N)
    assert found.status is Status.FEASIBLE
    assert found.fallback is None


def test_bound_above_objective_is_dropped() -> None:
    """A bound above the recomputed objective is worth nothing."""
    found = solve_guarded(Claims(Exact().solve(PROBLEM).choice_N, bound_s=1e3), PROBLEM)
    assert found.bound_s == -np.inf
    assert "bound" in found.note


@pytest.mark.parametrize(
    "choice_N",
    [np.full(6, Device.GPU, np.int8), np.full(6, 7, np.int8), np.zeros(5, np.int8), None],
    ids=["missing on the GPU", "no device", "too short", "nothing"],
)
def test_infeasible_answers_become_the_incumbent(choice_N: object) -> None:
    """Misses on the CPU instead of what cannot be."""
    found = solve_guarded(Claims(choice_N), PROBLEM)
    assert found.status is Status.INCUMBENT
    np.testing.assert_array_equal(found.choice_N, PROBLEM.incumbent())
    assert (found.objective_s, found.makespan_s) == (PROBLEM.incumbent_s, PROBLEM.makespan_s(PROBLEM.incumbent()))
    assert found.fallback is Fallback.INFEASIBLE
    assert found.note


def test_worse_than_the_incumbent_becomes_the_incumbent() -> None:
    """The guard is a floor under every strategy."""
    problem = replace(PROBLEM, cpu_s_N=frozen([0, 0, 0, 0, 0, 1.0]), ready_s_N=frozen(np.zeros(6)))
    found = solve_guarded(Claims(np.zeros(6, np.int8)), problem)
    assert (found.status, found.fallback) == (Status.INCUMBENT, Fallback.WORSE)


def test_exceptions_become_a_note() -> None:
    """A step is never interrupted."""
    found = solve_guarded(Raises(), PROBLEM)
    assert (found.status, found.fallback) == (Status.INCUMBENT, Fallback.RAISED)
    assert "out of luck" in found.note


def test_late_answers_are_dropped() -> None:
    """The incumbent is the answer at a time limit."""
    late = Claims(Exact().solve(PROBLEM).choice_N, delay_s=0.05)
    found = solve_guarded(late, PROBLEM, time_limit_s=0.01)
    assert (found.status, found.fallback) == (Status.INCUMBENT, Fallback.LATE)


def test_without_time_nothing_is_asked() -> None:
    """The solver is not even called."""
    solver = Claims(np.zeros(6, np.int8))
    assert solve_guarded(solver, PROBLEM, time_limit_s=0.0).fallback is Fallback.NO_TIME
    assert solver.calls == 0


BAD = {
    "gpu_s_N": frozen([np.nan] * 6),
    "cpu_s_N": frozen([-1.0] * 6),
    "utility_N": frozen([np.inf] * 6),
    "copy_s_N": frozen([1.0] * 5),
    "ready_s_N": frozen([[0.0] * 6]),
    "victim_price_V": frozen([2.0, 1.0]),
    "link_free_s": float("nan"),
    "roundtrip_s": -1.0,
    "gpu_call_s": float("inf"),
}


@pytest.mark.parametrize("field", BAD)
def test_malformed_problems_name_the_field(field: str) -> None:
    """A ValueError that names the field, and the solver is never called."""
    solver = Claims(np.zeros(6, np.int8))
    with pytest.raises(InputError, match=field):
        solve_guarded(solver, replace(PROBLEM, **{field: BAD[field]}))
    assert solver.calls == 0


@pytest.mark.parametrize(("law", "choice_N"), [(feasible, np.full(6, 1)), (optimal_means_optimal, np.zeros(6))])
def test_laws_catch_a_liar(law: Law, choice_N: object) -> None:
    """The laws themselves can fail."""
    assert law in LAWS
    liar: Solver = Claims(np.array(choice_N, np.int8), objective_s=0.0, bound_s=0.0)
    with pytest.raises(AssertionError):
        law(liar, PROBLEM)
