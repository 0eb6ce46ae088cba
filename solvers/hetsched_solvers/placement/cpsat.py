"""cp-sat for placement: the sample-average program by OR-Tools' CP-SAT, hinted with the best placement known.

Times become multiples of 1e-7 of a step, so a layer-step of 30 experts is off by 1.5e-6 of a step at most; the bound is
lowered by half a multiple for each term. Bytes are rounded down to a thousandth of the smallest expert, which can only
lower the bound; a placement that does not fit after all is dropped. CP-SAT has no incremental interface: each call
builds its model anew, and only the placement is carried on, as a hint.
"""

from __future__ import annotations

import time

import numpy as np
from ortools.sat.python import cp_model

from hetsched.dispatch.placement import PlacementSolution, is_feasible, objective_s
from hetsched.dispatch.problem import PlacementProblem
from hetsched.dispatch.solver import Status
from hetsched.interruptible import interruptible

from .linear import SparseProgram, sparse_program
from .start import hint, starting_point

MULTIPLES = 10_000_000
MOST = 1 << 40  # of a layer-step, in multiples


class PlacementCpSat:
    """One worker; the complete hint is the fast path's placement, or what is resident now where that is better."""

    name = "cp-sat"

    def __init__(self, limit_s: float = 60.0) -> None:
        self.limit_s = limit_s

    def solve(self, problem: PlacementProblem, *, time_limit_s: float | None = None) -> PlacementSolution:
        """The better of CP-SAT's placement and the hint; the bound is the fast path's, or CP-SAT's where higher."""
        start = time.perf_counter()
        first = starting_point(problem, time_limit_s)
        limit_s = (self.limit_s if time_limit_s is None else time_limit_s) - (time.perf_counter() - start)
        unit_s = first.objective_s / MULTIPLES or 1.0
        if limit_s <= 0:
            return first
        program = sparse_program(problem, unit_s)
        model, columns = _model(program, problem.num_samples, hint(program, first))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        solver.parameters.max_time_in_seconds = limit_s
        solver.parameters.catch_sigint_signal = False  # it would end the search and say nothing
        status = interruptible(lambda: solver.solve(model), solver.stop_search)
        best, bound_s = (first.tier_LE, first.gpu_LE, first.objective_s), first.bound_s
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            chosen = {c for c in range(program.binaries) if solver.value(columns[c])}
            placed = program.placement(problem, chosen)
            if is_feasible(problem, *placed) and (cost_s := objective_s(problem, *placed)) < best[2]:
                best = (*placed, cost_s)
            slack = (len(program.value) + len(program.cost)) / 2
            bound_s = max(bound_s, (solver.best_objective_bound - slack) * unit_s / problem.num_samples)
        found = Status.OPTIMAL if best[2] - bound_s <= 1e-9 * best[2] else Status.FEASIBLE
        return PlacementSolution(found, *best, min(bound_s, best[2]), time.perf_counter() - start)


def _model(
    program: SparseProgram, num_samples: int, hint_C: list[float]
) -> tuple[cp_model.CpModel, list[cp_model.IntVar]]:
    """The program in whole numbers, and its columns."""
    model = cp_model.CpModel()
    columns = [
        model.new_bool_var("") if high == 1.0 else model.new_int_var(0, MOST, "") for high in program.high_column
    ]
    ends = np.searchsorted(program.row_id, np.arange(len(program.low) + 1)).tolist()
    for r, (low, high) in enumerate(zip(program.low, program.high, strict=True)):
        terms = range(ends[r], ends[r + 1])
        is_capacity = low == -np.inf
        values = [int(1000 * program.value[i]) if is_capacity else round(program.value[i]) for i in terms]
        total = cp_model.LinearExpr.weighted_sum([columns[program.column_id[i]] for i in terms], values)
        if low > -np.inf:
            model.add(total >= round(low))
        if high < np.inf:
            model.add(total <= int(1000 * high if is_capacity else high))
    weights = [round(cost * num_samples) for cost in program.cost]
    model.minimize(cp_model.LinearExpr.weighted_sum(columns, weights))
    for column, value, high in zip(columns, hint_C, program.high_column, strict=True):
        # a layer-step is hinted half a multiple a term longer than it is, so that rounding leaves the hint feasible
        model.add_hint(column, round(value) if high == 1.0 else min(round(value) + len(program.where), MOST))
    return model, columns
