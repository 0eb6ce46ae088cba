"""Every solver obeys every law, on corners, on tiny problems full of ties, and on realistic ones."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings

from hetsched.dispatch.problem import DispatchProblem
from hetsched.dispatch.solver import Solver
from hetsched.plugins import installed, plugin
from hetsched.testing.dispatch_problems import degenerate_problems, dispatch_problems, realistic_problems
from hetsched.testing.solvers import LAWS

SOLVERS = sorted(installed("hetsched.solvers"))
EXAMPLES = {"exact": 60, "pulp-cbc": 1, "cp-sat": 6, "mathopt-highs": 6, "lp-rounding": 6, "brute": 5}
CORNERS = degenerate_problems()
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pulp")
by_solver = pytest.mark.parametrize("name", SOLVERS)


@cache
def solver(name: str) -> Solver:
    """One instance for all tests: solvers keep no state that changes answers."""
    made: Solver = plugin("hetsched.solvers", name)()
    return made


def test_every_strategy_is_there() -> None:
    """The strategies that comparisons promise are installed."""
    promised = "exact cp-sat mathopt-highs pulp-cbc lp-rounding greedy-dali list-hybrimoe ratio-freetoken rule-fiddler"
    assert set(SOLVERS) >= {*promised.split(), "threshold-spac", "threshold-spac-fixed", "sort", "all-cpu", "all-fetch"}


@by_solver
def test_name_is_the_installed_one(name: str) -> None:
    """Tables and notes use the name that a user would type."""
    assert solver(name).name == name


@by_solver
@pytest.mark.parametrize("corner", CORNERS)
def test_laws_on_corners(name: str, corner: str) -> None:
    """Degenerate problems are answered like any other."""
    laws = LAWS if name != "pulp-cbc" else LAWS[:4]  # a process for every call
    for law in laws:
        law(solver(name), CORNERS[corner])


@by_solver
def test_laws_on_small_problems(name: str) -> None:
    """Zeros, ties, anything Hypothesis can think of; every law on each problem."""
    quick = settings(max_examples=EXAMPLES.get(name, 20), derandomize=True, suppress_health_check=list(HealthCheck))

    @quick
    @given(dispatch_problems())
    def obeys(problem: DispatchProblem) -> None:
        for law in LAWS:
            law(solver(name), problem)

    obeys()


@pytest.mark.parametrize("name", ["exact", "cp-sat", "mathopt-highs"])
def test_laws_on_realistic_problems(name: str) -> None:
    """Costs as machines have them."""
    quick = settings(
        max_examples=60 if name == "exact" else 5,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )

    @quick
    @given(realistic_problems(9 if name == "exact" else 12))
    def obeys(problem: DispatchProblem) -> None:
        for law in LAWS:
            law(solver(name), problem)

    obeys()
