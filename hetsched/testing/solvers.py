"""Laws of dispatch solvers: functions (solver, problem) that raise AssertionError where a solver breaks one.

Third parties run them over their own solver:

    from hetsched.testing.solvers import LAWS
    from hetsched.testing.dispatch_problems import dispatch_problems

Shapes: N experts under decision, V victims.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from hetsched.dispatch.guard import solve_guarded
from hetsched.dispatch.problem import Device, DispatchProblem, frozen
from hetsched.dispatch.solver import REL_TOL, Solution, Solver, Status
from hetsched.types import IntArray

Law = Callable[[Solver, DispatchProblem], None]
MAX_BRUTE = 9
ARRAYS = ("gpu_s_N", "cpu_s_N", "copy_s_N", "ready_s_N", "utility_N", "victim_price_V")


def optimum_s(problem: DispatchProblem) -> float:
    """The optimum by trying every choice with the problem's own objective; for small problems."""
    assert problem.size <= MAX_BRUTE
    devices = [(Device.CPU, Device.GPU if ready < np.inf else Device.FETCH) for ready in problem.ready_s_N]
    choices = (np.array(devices_N, np.int8) for devices_N in product(*devices))
    return min(problem.objective_s(choice_N) for choice_N in choices if problem.is_feasible(choice_N))


def feasible(solver: Solver, problem: DispatchProblem) -> None:
    """The choice obeys arrival, copying and slots, and its objective is what the solver says."""
    found = solver.solve(problem)
    assert problem.is_feasible(found.choice_N)
    assert abs(found.objective_s - problem.objective_s(found.choice_N)) <= _tolerance_s(problem, found)


def never_above_the_incumbent(solver: Solver, problem: DispatchProblem) -> None:
    """Behind the guard no answer is worse than misses on the CPU; a proved one is not even without it."""
    assert solve_guarded(solver, problem).objective_s <= problem.incumbent_s
    found = solver.solve(problem)
    if found.status is Status.OPTIMAL:
        assert found.objective_s <= problem.incumbent_s + _tolerance_s(problem, found)


def bound_below_optimum(solver: Solver, problem: DispatchProblem) -> None:
    """The lower bound is one: not above the optimum, and not above the solver's own objective."""
    found = solver.solve(problem)
    assert found.bound_s <= found.objective_s
    if problem.size <= MAX_BRUTE:
        assert found.bound_s <= optimum_s(problem) + _tolerance_s(problem, found)


def optimal_means_optimal(solver: Solver, problem: DispatchProblem) -> None:
    """A proved optimum is the one that brute force finds, and none is below it."""
    found = solver.solve(problem)
    if problem.size > MAX_BRUTE:
        return
    best_s = optimum_s(problem)
    assert found.objective_s >= best_s - _tolerance_s(problem, found)
    if found.status is Status.OPTIMAL:
        assert found.objective_s <= best_s + _tolerance_s(problem, found)


def blind_to_order(solver: Solver, problem: DispatchProblem) -> None:
    """A proved optimum does not depend on the order of the experts."""
    reverse = np.arange(problem.size)[::-1]
    _same_optimum(solver, problem, permuted(problem, reverse), 1.0)


def blind_to_units(solver: Solver, problem: DispatchProblem) -> None:
    """A proved optimum scales with the seconds."""
    _same_optimum(solver, problem, scaled(problem, 1000.0), 1000.0)


def more_memory_never_hurts(solver: Solver, problem: DispatchProblem) -> None:
    """One more free slot does not raise a proved optimum."""
    roomier = replace(problem, victim_price_V=frozen(np.concatenate([[0.0], problem.victim_price_V])))
    before, after = solver.solve(problem), solver.solve(roomier)
    if before.status is after.status is Status.OPTIMAL:
        assert after.objective_s <= before.objective_s + _tolerance_s(problem, before)


def inputs_untouched(solver: Solver, problem: DispatchProblem) -> None:
    """The problem's arrays are as before, even where they could be written."""
    arrays: dict[str, Any] = {name: getattr(problem, name).copy() for name in ARRAYS}
    writable = replace(problem, **{name: value.copy() for name, value in arrays.items()})
    packed = writable.packed.copy()
    solver.solve(writable)
    np.testing.assert_array_equal(writable.packed, packed)
    for name, value in arrays.items():
        np.testing.assert_array_equal(getattr(writable, name), value)


def same_answer_twice(solver: Solver, problem: DispatchProblem) -> None:
    """The same problem gets the same choice."""
    np.testing.assert_array_equal(solver.solve(problem).choice_N, solver.solve(problem).choice_N)


def zero_budget_returns_at_once(solver: Solver, problem: DispatchProblem) -> None:
    """Without time the answer is the incumbent, and no search was made for it."""
    start = time.process_time()
    found = solver.solve(problem, time_limit_s=0.0)
    assert time.process_time() - start < 1.0  # far above what it takes, far below what a search may take
    assert found.status is Status.INCUMBENT
    np.testing.assert_array_equal(found.choice_N, problem.incumbent())


LAWS: tuple[Law, ...] = (
    feasible,
    never_above_the_incumbent,
    bound_below_optimum,
    optimal_means_optimal,
    blind_to_order,
    blind_to_units,
    more_memory_never_hurts,
    inputs_untouched,
    same_answer_twice,
    zero_budget_returns_at_once,
)


def permuted(problem: DispatchProblem, order_N: IntArray) -> DispatchProblem:
    """The same problem with its experts in another order."""
    columns: dict[str, Any] = {name: frozen(getattr(problem, name)[order_N]) for name in ARRAYS[:5]}
    return replace(problem, **columns)


def scaled(problem: DispatchProblem, factor: float) -> DispatchProblem:
    """The same problem in other units of time."""
    columns: dict[str, Any] = {name: frozen(factor * getattr(problem, name)) for name in ARRAYS}
    link_free_s, roundtrip_s, gpu_call_s = (factor * seconds for seconds in problem.numbers)
    return replace(problem, **columns, link_free_s=link_free_s, roundtrip_s=roundtrip_s, gpu_call_s=gpu_call_s)


def _same_optimum(solver: Solver, problem: DispatchProblem, other: DispatchProblem, factor: float) -> None:
    first, second = solver.solve(problem), solver.solve(other)
    if first.status is second.status is Status.OPTIMAL:
        difference_s = abs(second.objective_s / factor - first.objective_s)
        assert difference_s <= _tolerance_s(problem, first)


def _tolerance_s(problem: DispatchProblem, found: Solution) -> float:
    # of rounding: relative to what was added up, which prices can make larger than the objective
    terms_s = problem.makespan_s(found.choice_N) + abs(problem.prices_s(found.choice_N))
    return REL_TOL * terms_s + 1e-15
