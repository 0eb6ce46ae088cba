"""Solvers against each other on the same problems: how good, how sure, how fast.

The measure everywhere: (objective - best) / makespan of the best, where best is the proved optimum, or the highest
bound where nobody proved one. Prices can make an objective negative, a makespan never. Times are of one core in a loop
that does nothing else: the median of three for calls below a millisecond.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..plugins import instance
from .problem import DispatchProblem
from .solver import REL_TOL, Solution, Solver, Status, incumbent_solution

QUICK_S = 1e-3
REFERENCE = "exact"


class Row(NamedTuple):
    """One solver over all problems. `proved`: share; ratio 1: the optimum; `failures`: no, late or wrong answers."""

    solver: str
    mean_ratio: float
    worst_ratio: float
    proved: float
    median_s: float
    p99_s: float
    failures: int


class Try(NamedTuple):
    """One answer, recomputed: what the solver claims is not used, but for its bound."""

    objective_s: float
    makespan_s: float
    bound_s: float
    proved: bool
    took_s: float
    failed: bool


@dataclass
class Contest:
    """Answers of several solvers, problem by problem. Unlike the guard it keeps answers worse than the incumbent."""

    solvers: Sequence[Solver]
    time_limit_s: float | None = None
    tries: dict[str, list[Try]] = field(default_factory=dict)
    instances: int = 0

    def run(self, problems: Iterable[DispatchProblem]) -> None:
        """Let every solver answer every problem once, in turn, after one answer each that does not count."""
        for problem in problems:
            if self.instances == 0:
                for solver in self.solvers:
                    _try(solver, problem, self.time_limit_s)
            for solver in self.solvers:
                self.tries.setdefault(solver.name, []).append(_try(solver, problem, self.time_limit_s))
            self.instances += 1

    def rows(self, names: Iterable[str] | None = None) -> list[Row]:
        """A row for each solver, in the order they were given; all unless named."""
        gaps = self._gaps()
        return [_row(name, self.tries[name], gaps[name]) for name in names or self.tries]

    def _gaps(self) -> dict[str, list[float]]:
        gaps: dict[str, list[float]] = {name: [] for name in self.tries}
        for tries in zip(*self.tries.values(), strict=True):
            best_s, makespan_s = _best(tries)
            for name, tried in zip(self.tries, tries, strict=True):
                gap = (tried.objective_s - best_s) / makespan_s if makespan_s > 0 else 0.0
                gaps[name].append(max(gap, 0.0) if gap > -REL_TOL else gap)
        return gaps


def contest(
    names: Sequence[str | type[Solver]], problems: Iterable[DispatchProblem], time_limit_s: float | None = None
) -> Contest:
    """Run solvers: installed names, "module:Class", or classes; `exact` always takes part, as the reference."""
    if time_limit_s is not None and not 0 < time_limit_s < math.inf:
        raise InputError(f"time limit is {time_limit_s} s; it must be above 0 and finite")
    solvers: list[Solver] = [instance("hetsched.solvers", name) for name in names]
    called = [solver.name for solver in solvers]
    if twice := [name for name in called if called.count(name) > 1]:
        raise InputError(f"two solvers are called {twice[0]!r}; name one of them")
    if REFERENCE not in called:
        solvers.append(instance("hetsched.solvers", REFERENCE))
    held = Contest(solvers, time_limit_s)
    held.run(problems)
    return held


def _try(solver: Solver, problem: DispatchProblem, time_limit_s: float | None) -> Try:
    problem.validate()  # and read once, as the guard does before any solver runs
    found, took_s = _timed(solver, problem, time_limit_s)
    if took_s < QUICK_S:
        took_s = sorted([took_s, *(_timed(solver, problem, time_limit_s)[1] for _ in range(2))])[1]
    late = time_limit_s is not None and took_s > time_limit_s
    failed = found is None or late or not problem.is_feasible(found.choice_N)
    kept = incumbent_solution(problem) if found is None or failed else found
    objective_s, makespan_s = problem.objective_s(kept.choice_N), problem.makespan_s(kept.choice_N)
    return Try(objective_s, makespan_s, kept.bound_s, kept.status is Status.OPTIMAL, took_s, failed)


def _timed(solver: Solver, problem: DispatchProblem, time_limit_s: float | None) -> tuple[Solution | None, float]:
    start = time.perf_counter()
    try:
        found: Solution | None = solver.solve(problem, time_limit_s=time_limit_s)
    except Exception:  # a strategy that cannot answer is a row with failures, not the end of the comparison
        found = None
    return found, time.perf_counter() - start


def _best(tries: Sequence[Try]) -> tuple[float, float]:
    """The optimum and its makespan; the highest bound and the best answer's makespan where none is proved."""
    leader = min(tries, key=lambda tried: (tried.objective_s, not tried.proved))
    proved = [tried for tried in tries if tried.proved]
    if proved:
        leader = min(proved, key=lambda tried: tried.objective_s)
        return leader.objective_s, leader.makespan_s
    return max(min(tried.bound_s, leader.objective_s) for tried in tries), leader.makespan_s


def _row(name: str, tries: Sequence[Try], gaps: Sequence[float]) -> Row:
    took_s = np.array([tried.took_s for tried in tries])
    return Row(
        solver=name,
        mean_ratio=1 + float(np.mean(gaps)),
        worst_ratio=1 + float(np.max(gaps)),
        proved=float(np.mean([tried.proved for tried in tries])),
        median_s=float(np.median(took_s)),
        p99_s=float(np.percentile(took_s, 99)),
        failures=sum(tried.failed for tried in tries),
    )
