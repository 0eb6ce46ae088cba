"""Placement in the background: demand of the last steps, and the newest placement that fits it.

Nothing in the scheduler uses it. With one precision tier, sorting experts by demand places as well (within 1 to 3 %
either way on recorded traces, MEASUREMENTS.md), and the scheduler's own average follows demand from layer to layer
where a placement stands still. It pays where experts come in several precision tiers at once, and for verify batches on
a fast link (1.5 to 3 %).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np

from .errors import InputError
from .placement import Placed, PlacementSolution, PlacementSolver, solve_guarded
from .problem import PlacementProblem
from .types import IntArray

Pose: TypeAlias = Callable[[IntArray, Placed], PlacementProblem]


class PlacementWindow:
    """Collects what routers asked for; solves every `every` steps over the last `steps`; hands out what is finished.

    `pose(demand_SLE, current_LE)` makes the problem of a window, usually from `placement_problem`; `solver` is of the
    group "hetsched.placement_solvers". One thread solves, one window at a time; steps that fall due meanwhile wait for
    it and are solved together. HiGHS, CP-SAT and NumPy's longer loops release the interpreter; posing and writing the
    program do not, so a decision may wait for them as for any other Python thread. `inline`: solve within `record`
    instead, for repeatable runs. Close it, or use it as a context: that joins the thread, after the solve it is at.
    """

    def __init__(
        self,
        pose: Pose,
        solver: PlacementSolver,
        *,
        steps: int = 256,
        every: int = 64,
        time_limit_s: float | None = 10.0,
        inline: bool = False,
    ) -> None:
        for name, value in (("steps", steps), ("every", every)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")
        self.every = every
        self.solved = 0
        self._pose, self._solver, self._time_limit_s = pose, solver, time_limit_s
        self._recent: deque[IntArray] = deque(maxlen=steps)
        self._due_in = every
        self._newest: PlacementSolution | None = None
        self._running: Future[PlacementSolution] | None = None
        self._thread = None if inline else ThreadPoolExecutor(1, thread_name_prefix="hetsched-placement")
        self._closed = False

    def record(self, demand_LE: IntArray, current_LE: Placed) -> None:
        """Add one step: tokens per expert int64 [L, E]; `current_LE` int8 [L, E] is what is resident now (tier, or -1).

        Both are copied. Raises InputError when shapes disagree, and whatever `pose` raised on an earlier window.
        """
        if self._closed:
            raise RuntimeError("this PlacementWindow is closed")
        if demand_LE.shape != current_LE.shape or (self._recent and demand_LE.shape != self._recent[-1].shape):
            expected = self._recent[-1].shape if self._recent else current_LE.shape
            raise InputError(f"demand_LE has shape {demand_LE.shape}, expected {expected}")
        self._recent.append(np.array(demand_LE))
        self._due_in -= 1
        self._collect(wait=False)
        if self._due_in <= 0 and self._running is None:
            self._due_in = self.every
            window, current = list(self._recent), np.array(current_LE)
            if self._thread is None:
                self._keep(self._solve(window, current))
            else:
                self._running = self._thread.submit(self._solve, window, current)

    def newest(self) -> PlacementSolution | None:
        """The last finished placement, without waiting; None before the first. Its objective is of its own window."""
        self._collect(wait=False)
        return self._newest

    def close(self) -> None:
        """Wait for the solve under way, if any, and end the thread. What it found is still there to ask for."""
        self._closed = True
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        self._collect(wait=True)

    def __enter__(self) -> PlacementWindow:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _solve(self, window: list[IntArray], current_LE: Placed) -> PlacementSolution:
        problem = self._pose(np.stack(window), current_LE)
        return solve_guarded(self._solver, problem, time_limit_s=self._time_limit_s)

    def _collect(self, *, wait: bool) -> None:
        running = self._running
        if running is not None and (wait or running.done()):
            self._running = None
            self._keep(running.result())

    def _keep(self, found: PlacementSolution) -> None:
        self._newest = found
        self.solved += 1
