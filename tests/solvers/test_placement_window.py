"""Placement over a window: what is solved, when, by whom, and that no thread stays behind."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.placement import PlacementSolution, placement_problem
from hetsched.placement_window import PlacementWindow
from hetsched.plugins import load
from hetsched.problem import PlacementProblem
from hetsched.solver import Fallback, Status
from hetsched.types import IntArray
from hetsched_solvers.placement_sort import PlacementSort

N = np.arange(9.0)
NOTHING = np.full((1, 3), -1, np.int8)


def pose(demand_SLE: IntArray, current_LE: Any) -> PlacementProblem:
    """Three experts of one layer, room for one."""
    return placement_problem(
        demand_SLE,
        gpu_s_of=[0.1 * N],
        cpu_s_of=0.3 * N,
        tier_bytes=[4],
        tier_copy_s=[0.01],
        capacity_bytes_G=[4],
        current_LE=current_LE,
    )


def wanted(expert: int) -> IntArray:
    """A step that asks for one expert more than for the others."""
    demand_LE = np.ones((1, 3), np.int64)
    demand_LE[0, expert] = 8
    return demand_LE


def placed(found: PlacementSolution | None) -> list[int]:
    """Experts that a placement holds."""
    assert found is not None
    return np.flatnonzero(found.tier_LE[0] >= 0).tolist()


class Held:
    """A solver that waits until it may answer, and says when it was asked."""

    name = "held"

    def __init__(self) -> None:
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self.samples: list[int] = []
        self.by: list[str] = []

    def solve(self, problem: PlacementProblem, *, time_limit_s: float | None = None) -> PlacementSolution:
        """Sort's answer, in time."""
        self.samples.append(problem.num_samples)
        self.by.append(threading.current_thread().name)
        self.asked.set()
        assert self.may_answer.wait(60)
        return PlacementSort().solve(problem)


def threads() -> set[str]:
    """Names of the threads that live."""
    return {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("name", ["sort", "lagrange", "mathopt-highs"])
def test_inline_follows_the_window(name: str) -> None:
    """What was asked for longer ago than the window does not count."""
    window = PlacementWindow(pose, load("hetsched.placement_solvers", name)(), steps=4, every=4, inline=True)
    assert window.newest() is None
    for step in range(12):
        window.record(wanted(0 if step < 6 else 2), NOTHING)
        if step == 3:
            assert placed(window.newest()) == [0]
    assert (window.solved, placed(window.newest())) == (3, [2])


def test_nobody_waits_for_the_solver() -> None:
    """While a window is solved, steps are recorded; those that fell due are solved together afterwards."""
    solver, before = Held(), threads()
    with PlacementWindow(pose, solver, steps=8, every=2) as window:
        for _ in range(2):
            window.record(wanted(0), NOTHING)
        assert solver.asked.wait(60)
        for _ in range(6):
            window.record(wanted(1), NOTHING)
        assert window.newest() is None
        solver.may_answer.set()
        while window.newest() is None:
            pass
        assert placed(window.newest()) == [0]
        window.record(wanted(1), NOTHING)
    assert (window.solved, placed(window.newest())) == (2, [1])
    assert solver.samples == [2, 8]
    assert all(name.startswith("hetsched-placement") for name in solver.by)
    assert threads() == before


def test_background_and_inline_agree() -> None:
    """The same windows get the same placements."""
    found = []
    for inline in (True, False):
        with PlacementWindow(pose, PlacementSort(), steps=3, every=3, inline=inline) as window:
            for step in range(3):
                window.record(wanted(step % 2), NOTHING)
        found.append((window.newest().tier_LE.tolist(), window.newest().objective_s))  # type: ignore[union-attr]
    assert found[0] == found[1]


def test_what_is_resident_counts() -> None:
    """A copy that the window cannot pay back is not made."""
    dear = partial(placement_problem, gpu_s_of=[0.1 * N], cpu_s_of=0.3 * N, tier_bytes=[4], tier_copy_s=[1e6])
    resident = np.array([[-1, 0, -1]], np.int8)
    highs = load("hetsched.placement_solvers", "mathopt-highs")()
    with PlacementWindow(
        lambda demand, now: dear(demand, capacity_bytes_G=[4], current_LE=now), highs, every=1
    ) as window:
        window.record(wanted(0), resident)
    assert placed(window.newest()) == [1]


def test_a_failing_solver_leaves_what_is_resident() -> None:
    """Its exception is the reason given."""

    class Raises:
        name = "raises"

        def solve(self, problem: PlacementProblem, *, time_limit_s: float | None = None) -> PlacementSolution:
            raise RuntimeError("no licence")

    with PlacementWindow(pose, Raises(), every=1) as window:
        window.record(wanted(0), NOTHING)
    found = window.newest()
    assert found is not None
    assert (found.status, found.fallback) == (Status.INCUMBENT, Fallback.RAISED)


def test_a_failing_pose_is_raised_not_lost() -> None:
    """At the next step, or when closing."""

    def fails(demand_SLE: IntArray, current_LE: Any) -> PlacementProblem:
        raise InputError("dense_s is missing")

    window = PlacementWindow(fails, PlacementSort(), every=1)
    window.record(wanted(0), NOTHING)
    with pytest.raises(InputError, match="dense_s"):
        window.close()
    assert not any(name.startswith("hetsched-placement") for name in threads())


def test_bad_use_is_named() -> None:
    """Windows of no steps, other shapes, and a step after the end."""
    for field in ("steps", "every"):
        with pytest.raises(InputError, match=field):
            PlacementWindow(pose, PlacementSort(), **{field: 0})  # type: ignore[arg-type]
    window = PlacementWindow(pose, PlacementSort(), inline=True)
    window.record(wanted(0), NOTHING)
    for demand_LE, current_LE in ((np.ones((2, 3), int), NOTHING), (np.ones((1, 4), int), NOTHING[:, [0, 0, 0, 0]])):
        with pytest.raises(InputError, match="demand_LE"):
            window.record(demand_LE, current_LE)
    window.close()
    with pytest.raises(RuntimeError, match="closed"):
        window.record(wanted(0), NOTHING)
