"""`exact` against closed forms, against CP-SAT where brute force cannot go, and its certificate."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from hetsched.dispatch.guard import solve_guarded
from hetsched.dispatch.instances import KINDS, random_problem
from hetsched.dispatch.problem import Device, DispatchProblem, frozen
from hetsched.dispatch.solver import Solver, Status
from hetsched_solvers.brute import Brute
from hetsched_solvers.cpsat import CpSat
from hetsched_solvers.exact.solver import Exact, without_ties
from hetsched_solvers.mathopt import MathOptHighs

EXACT = Exact()


def equal_experts(resident: int, missing: int, copy: float = 1.1, slots: int = 99) -> DispatchProblem:
    """Decode of gpt-oss on a laptop, in milliseconds: every expert has one token."""
    size = resident + missing
    ready = [0.0] * resident + [math.inf] * missing
    columns = [np.full(size, 0.053), np.full(size, 0.264), np.full(size, copy), ready, np.zeros(size), np.zeros(slots)]
    return DispatchProblem(*(frozen(column) for column in columns))


@pytest.mark.parametrize(("resident", "missing"), [(0, 8), (3, 13), (40, 24), (0, 64), (128, 128), (256, 0)])
def test_equal_experts_match_the_closed_form(resident: int, missing: int) -> None:
    """With equal experts only the numbers fetched and sent to the CPU count: all pairs of numbers give the optimum."""
    lanes = [
        max(
            (resident - moved + k) * 0.053,
            k * 1.1 + 0.053 if k else 0.0,
            (missing - k + moved) * 0.264,
        )
        for k in range(missing + 1)
        for moved in range(resident + 1)
    ]
    # the first arrival may find the GPU busy or idle, which the three terms cover as copies take longer than computing
    found = EXACT.solve(equal_experts(resident, missing))
    assert found.status is Status.OPTIMAL
    assert found.objective_s == pytest.approx(min(lanes), rel=1e-12)


def test_a_resident_moves_to_the_cpu_when_the_gpu_is_the_longer_lane() -> None:
    """Ten residents, 1 s each on the GPU and 1 s on the CPU: half of them move."""
    ones, none = frozen(np.ones(10)), frozen(np.zeros(10))
    found = EXACT.solve(DispatchProblem(ones, ones, ones, none, none, frozen([])))
    assert found.objective_s == 5.0
    assert (found.choice_N == Device.CPU).sum() == 5


def test_an_expert_in_flight_is_waited_for_only_when_that_is_shorter() -> None:
    """3 s on the CPU against arrival plus 1 s on the GPU."""
    for ready, device in ((1.5, Device.GPU), (2.5, Device.CPU)):
        columns = ([1.0], [3.0], [9.0], [ready], [0.0], [0.0])
        found = EXACT.solve(DispatchProblem(*(frozen(column) for column in columns)))
        assert found.choice_N.tolist() == [device]


def test_prices_decide_where_lanes_do_not() -> None:
    """A fetch that shortens nothing is made when the newcomer is worth more than its victim, and not otherwise."""
    for utility, device in ((0.5, Device.FETCH), (0.1, Device.CPU)):
        columns = ([0.0, 0.0], [1.0, 1.0], [2.0, math.inf], [math.inf] * 2, [utility, 0.0], [0.3])
        found = EXACT.solve(DispatchProblem(*(frozen(column) for column in columns)))
        assert found.choice_N.tolist() == [device, Device.CPU]


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_experts_are_proved(kind: str) -> None:
    """Every kind of cost, all proved, and the optimum is CP-SAT's."""
    rng = np.random.default_rng(16)
    for number in range(40):
        problem = random_problem(rng, 16, kind)
        found = EXACT.solve(problem)
        assert found.status is Status.OPTIMAL
        if number < 3:
            other = CpSat().solve(problem)
            assert other.objective_s == pytest.approx(found.objective_s, rel=1e-9)


def test_agrees_with_brute_force_on_twelve_experts() -> None:
    """4096 choices, one after another."""
    rng = np.random.default_rng(12)
    for _ in range(4):
        problem = random_problem(rng, 12)
        assert EXACT.solve(problem).objective_s == pytest.approx(Brute().solve(problem).objective_s, rel=1e-12)


@pytest.mark.parametrize("size", [17, 24, 48, 96, 200])
def test_large_problems_carry_a_small_gap(size: int) -> None:
    """Above 16 experts: mean gap at most 0.05 %, worst at most 1 %, whatever the costs."""
    rng = np.random.default_rng(size)
    gaps = []
    for _ in range(60):
        problem = random_problem(rng, size)
        found = solve_guarded(EXACT, problem)
        assert found.status in (Status.OPTIMAL, Status.FEASIBLE)
        gaps.append((found.objective_s - found.bound_s) / found.makespan_s)
    assert np.mean(gaps) <= 5e-4
    assert max(gaps) <= 1e-2


def test_the_bound_holds_where_the_search_is_cut_short() -> None:
    """One node is allowed: the bound must still lie below the optimum that a full search finds."""
    hasty, rng = Exact(max_nodes=1, always_prove=0), np.random.default_rng(3)
    open_gaps = 0
    for _ in range(300):
        problem = random_problem(rng, 10)
        cut, full = hasty.solve(problem), EXACT.solve(problem)
        assert cut.bound_s <= full.objective_s + 1e-12
        assert cut.objective_s >= full.objective_s - 1e-12
        open_gaps += cut.status is Status.FEASIBLE
    assert open_gaps > 10  # or the test would prove nothing


def test_a_time_limit_lowers_effort_not_correctness() -> None:
    """A microsecond: a feasible answer with a valid bound."""
    problem = random_problem(np.random.default_rng(5), 60, "verify")
    found = Exact().solve(problem, time_limit_s=1e-6)
    assert problem.is_feasible(found.choice_N)
    assert found.bound_s <= EXACT.solve(problem).objective_s + 1e-12


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_equal_experts_are_shared_out_well(seed: int) -> None:
    """Whole-number costs above 16 experts: the choice is HiGHS's optimum, though the bound may not prove it."""
    problem = random_problem(np.random.default_rng(seed), 60, "ties")
    other = MathOptHighs().solve(problem)
    assert other.status is Status.OPTIMAL
    found = EXACT.solve(problem)
    assert found.objective_s == pytest.approx(other.objective_s, rel=1e-9)
    assert found.bound_s <= other.objective_s * (1 + 1e-9)


def test_experts_told_apart_keep_what_is_no_time() -> None:
    """Only times grow, by at most a hundredth of the makespan together; what is infinite stays so."""
    problem = random_problem(np.random.default_rng(4), 30, "ties")
    apart, finite = without_ties(problem.packed, 30, 0.1), np.isfinite(problem.packed)
    np.testing.assert_array_equal(np.isfinite(apart), finite)
    grown = np.where(finite, apart, 0.0) - np.where(finite, problem.packed, 0.0)
    assert (grown >= 0).all()
    assert grown[:30].sum() <= 1e-3
    assert (grown[60:90] == 0).all()
    assert len(set(grown[:60].tolist())) == 60


@pytest.mark.parametrize(
    ("call", "devices", "makespan"),
    [(0.5, "GG", 0.5 + 2.0), (1.5, "GC", 3.0), (2.5, "GC", 2.5 + 1.0), (6.5, "CC", 7.0)],
)
def test_a_call_is_charged_once_and_only_where_it_is_made(call: float, devices: str, makespan: float) -> None:
    """Two residents, 1 s each on the GPU, 4 and 3 s on the CPU: both there, shared out, or the GPU left idle."""
    columns = ([1.0, 1.0], [4.0, 3.0], [math.inf] * 2, [0.0, 0.0], [0.0, 0.0], [])
    found = EXACT.solve(DispatchProblem(*(frozen(column) for column in columns), gpu_call_s=call))
    assert found.status is Status.OPTIMAL
    assert found.choice_N.tolist() == ["CG".index(device) for device in devices]
    assert found.objective_s == makespan


@pytest.mark.parametrize("solver", [Exact(), Exact(max_nodes=1, always_prove=0), CpSat(), MathOptHighs()])
def test_calls_of_any_length_leave_certificates_true(solver: Solver) -> None:
    """From calls that hardly count to ones that no GPU is worth: brute force's optimum, and no bound above it."""
    rng, count, idle = np.random.default_rng(8), 120 if isinstance(solver, Exact) else 30, 0
    for number in range(count):
        problem = replace(random_problem(rng, 7), gpu_call_s=1e-3 * float(rng.choice([0.05, 0.5, 1.0, 2.0, 4.0])))
        best, found = Brute().solve(problem), solver.solve(problem)
        tolerance_s = 1e-9 * problem.makespan_s(best.choice_N)
        assert found.bound_s <= best.objective_s + tolerance_s, number
        if found.status is Status.OPTIMAL:
            assert found.objective_s == pytest.approx(best.objective_s, rel=1e-9, abs=tolerance_s), number
        idle += not best.choice_N.any()
    assert 2 < idle < count / 2  # or the test would show one side only
