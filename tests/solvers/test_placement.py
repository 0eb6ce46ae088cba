"""Placement: the objective by hand, solvers against brute force, bounds, and the guard."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hetsched.dispatch.placement import is_feasible, objective_s, placement_problem, solve_guarded, validate
from hetsched.dispatch.problem import PlacementProblem, frozen
from hetsched.dispatch.solver import Status
from hetsched.errors import InputError
from hetsched.plugins import installed, plugin
from hetsched_solvers.placement.linear import sparse_program
from hetsched_solvers.placement.start import hint, starting_point

SOLVERS = sorted(installed("hetsched.placement_solvers"))
N = np.arange(5.0)


def small(seed: int, tiers: int = 1, gpus: int = 1, call: float = 0.0, **changes: Any) -> PlacementProblem:
    """Two layers of three experts, four steps; a tier of half the bytes is half as fast again."""
    demand_SLE = np.random.default_rng(seed).integers(0, 4, (4, 2, 3))
    problem = placement_problem(
        demand_SLE,
        gpu_s_of=[0.1 * N, 0.15 * N][:tiers],
        cpu_s_of=0.3 * N,
        tier_bytes=[4, 2][:tiers],
        tier_copy_s=[1.0, 0.5][:tiers],
        capacity_bytes_G=[8] * gpus,
        roundtrip_s=0.05,
        gpu_call_s=call,
        window_steps=50,
    )
    return replace(problem, **changes)


def optimum_s(problem: PlacementProblem) -> float:
    """Every placement, one after another."""
    tiers, layers, experts = problem.bytes_RLE.shape
    options = [(-1, -1), *itertools.product(range(tiers), range(len(problem.capacity_bytes_G)))]
    best_s = np.inf
    for choice in itertools.product(options, repeat=layers * experts):
        tier_LE, gpu_LE = np.moveaxis(np.array(choice, np.int8).reshape(layers, experts, 2), 2, 0)
        if is_feasible(problem, tier_LE, gpu_LE):
            best_s = min(best_s, objective_s(problem, tier_LE, gpu_LE))
    return best_s


def test_the_objective_is_the_longest_lane_and_the_copies() -> None:
    """One layer, one step: 2 tokens on the GPU (0.2), 3 on the CPU (0.9 + 0.05), dense 1, a copy in 50 steps; calls."""
    problem = placement_problem(
        np.array([[[2, 3]]]),
        gpu_s_of=[0.1 * N],
        cpu_s_of=0.3 * N,
        tier_bytes=[4],
        tier_copy_s=[1.0],
        capacity_bytes_G=[4],
        dense_s=1.0,
        roundtrip_s=0.05,
        window_steps=50,
    )
    first = np.array([[0, -1]], np.int8)
    assert objective_s(problem, first, first) == pytest.approx(1.0 + 0.95 + 1 / 50)
    stays = replace(problem, current_LE=frozen(first, np.int8))
    assert objective_s(stays, first, first) == pytest.approx(1.0 + 0.95)
    calls, none = replace(stays, gpu_call_s_M=frozen([0.8])), np.full((1, 2), -1, np.int8)
    assert objective_s(calls, first, first) == pytest.approx(1.0 + 0.8 + 0.2)
    assert objective_s(calls, none, none) == pytest.approx(1.0 + 1.5 + 0.05)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(("tiers", "gpus", "call"), [(1, 1, 0.0), (2, 1, 0.0), (1, 2, 0.2), (1, 1, 0.4)])
def test_against_brute_force(name: str, tiers: int, gpus: int, call: float) -> None:
    """Feasible, bound below the optimum, and the programs find the optimum."""
    for seed in range(2):
        problem = small(seed, tiers, gpus, call)
        best_s = optimum_s(problem)
        found = solve_guarded(plugin("hetsched.placement_solvers", name)(), problem, time_limit_s=20.0)
        assert not found.note
        assert found.bound_s <= best_s + 1e-9
        assert found.objective_s >= best_s - 1e-9
        if name in ("mathopt-highs", "cp-sat"):
            assert found.objective_s <= best_s * (1 + 1e-4)


@pytest.mark.parametrize("name", SOLVERS)
def test_nothing_fits(name: str) -> None:
    """No capacity: nothing is placed."""
    problem = small(1, capacity_bytes_G=frozen([0], np.int64))
    found = solve_guarded(plugin("hetsched.placement_solvers", name)(), problem, time_limit_s=20.0)
    assert (found.tier_LE == -1).all()


def test_copies_that_do_not_pay_are_not_made() -> None:
    """In a window of one step a copy of 1 s saves at most some tenths: what is resident stays."""
    current_LE = np.array([[0, -1, -1], [0, -1, -1]], np.int8)
    problem = small(2, current_LE=frozen(current_LE, np.int8), window_steps=1)
    found = solve_guarded(plugin("hetsched.placement_solvers", "mathopt-highs")(), problem, time_limit_s=20.0)
    np.testing.assert_array_equal(found.tier_LE, current_LE)


def test_the_guard_keeps_what_is_resident() -> None:
    """A solver that fails changes nothing."""

    class Raises:
        name = "raises"

        def solve(self, problem: PlacementProblem, *, time_limit_s: float | None = None) -> Any:
            raise RuntimeError("no licence")

    found = solve_guarded(Raises(), small(1))
    assert found.status is Status.INCUMBENT
    assert "no licence" in found.note


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"cpu_s_ME": frozen(np.zeros((2, 2)))}, "cpu_s_ME"),
        ({"dense_s_M": frozen(np.full(8, np.nan))}, "dense_s_M"),
        ({"window_steps": 0}, "window_steps"),
        ({"bytes_RLE": frozen(np.ones((2, 3)), np.int64)}, "bytes_RLE"),
        ({"capacity_bytes_G": frozen([-1], np.int64)}, "capacity_bytes_G"),
        ({"layer_M": frozen(np.full(8, 2), np.int64)}, "layer_M"),
        ({"current_LE": frozen(np.ones((2, 3)), np.int8)}, "current_LE"),
    ],
)
def test_malformed_problems_name_the_field(changes: dict[str, Any], named: str) -> None:
    """Shapes and ranges."""
    with pytest.raises(InputError, match=named):
        validate(small(1, **changes))


@pytest.mark.parametrize(("tiers", "gpus", "call"), [(1, 1, 0.0), (2, 1, 0.0), (1, 2, 0.0), (2, 2, 0.3)])
def test_the_hint_is_complete(tiers: int, gpus: int, call: float) -> None:
    """Every row of the program holds at the hint, and it costs what the placement costs."""
    problem = small(5, tiers, gpus, call, dense_s_M=frozen(np.full(8, 0.2)))
    first = starting_point(problem, None)
    program = sparse_program(problem, 1.0)
    value_C = np.array(hint(program, first))
    row_R = np.zeros(len(program.low))
    np.add.at(row_R, program.row_id, np.array(program.value) * value_C[program.column_id])
    assert (row_R >= np.array(program.low) - 1e-9).all()
    assert (row_R <= np.array(program.high) + 1e-9).all()
    assert np.dot(program.cost, value_C) == pytest.approx(first.objective_s)


def test_programs_start_from_what_is_resident_where_that_is_best() -> None:
    """Copies so dear that nothing may move."""
    current_LE = np.array([[-1, 0, -1], [-1, -1, 0]], np.int8)
    problem = small(2, current_LE=frozen(current_LE, np.int8), copy_s_RLE=frozen(np.full((1, 2, 3), 1e6)))
    np.testing.assert_array_equal(starting_point(problem, None).tier_LE, current_LE)


@pytest.mark.parametrize("bound_s", [1e9, 0.0])
def test_the_guard_believes_no_claim(bound_s: float) -> None:
    """Neither a bound above the objective, nor an optimum that the bound does not prove, nor an objective."""
    problem = small(1)
    honest = plugin("hetsched.placement_solvers", "sort")().solve(problem)

    class Claims:
        name = "claims"

        def solve(self, problem: PlacementProblem, *, time_limit_s: float | None = None) -> Any:
            return replace(honest, status=Status.OPTIMAL, objective_s=-1.0, bound_s=bound_s)

    found = solve_guarded(Claims(), problem)
    assert found.objective_s == honest.objective_s
    assert found.status is Status.FEASIBLE
    assert found.bound_s <= found.objective_s
    assert "claimed" in found.note
