"""cp-sat for placement: the sample-average program by OR-Tools' CP-SAT, hinted with the best simple placement.

Times become multiples of 1e-7 of a step, so a layer-step of 30 experts is off by 1.5e-6 of a step at most; the bound is
lowered by half a multiple for each term. Bytes are rounded down to a thousandth of the smallest expert, which can only
lower the bound; a placement that does not fit after all is dropped.
"""

from __future__ import annotations

import time

import numpy as np
from ortools.sat.python import cp_model

from hetsched.placement import PlacementSolution, is_feasible, objective_s
from hetsched.problem import PlacementProblem
from hetsched.solver import Status

from .placement_lagrange import PlacementLagrange
from .placement_linear import sparse_program

MULTIPLES = 10_000_000


class PlacementCpSat:
    """One worker; the hint is the fast path's placement, or what is resident now where that is better."""

    name = "cp-sat"

    def __init__(self, limit_s: float = 60.0) -> None:
        self.limit_s = limit_s

    def solve(self, problem: PlacementProblem, *, time_limit_s: float | None = None) -> PlacementSolution:
        """The better of CP-SAT's placement and the hint; the bound is the fast path's, or CP-SAT's where higher."""
        start = time.perf_counter()
        fast = PlacementLagrange().solve(problem, time_limit_s=time_limit_s)
        limit_s = (self.limit_s if time_limit_s is None else time_limit_s) - (time.perf_counter() - start)
        unit_s = fast.objective_s / MULTIPLES or 1.0
        if limit_s <= 0:
            return fast
        program = sparse_program(problem, unit_s)
        model = cp_model.CpModel()
        columns = [
            model.new_bool_var("") if high == 1.0 else model.new_int_var(0, 1 << 40, "") for high in program.high_column
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
        weights = [round(cost * problem.num_samples) for cost in program.cost]
        model.minimize(cp_model.LinearExpr.weighted_sum(columns, weights))
        for column, (tier, gpu, layer, expert) in zip(columns, program.where, strict=False):
            hinted = fast.tier_LE[layer, expert] == tier and fast.gpu_LE[layer, expert] == gpu
            model.add_hint(column, bool(hinted))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        solver.parameters.max_time_in_seconds = limit_s
        status = solver.solve(model)
        best = (fast.tier_LE, fast.gpu_LE, fast.objective_s)
        bound_s = fast.bound_s
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            chosen = {c for c in range(program.binaries) if solver.value(columns[c])}
            placed = program.placement(problem, chosen)
            if is_feasible(problem, *placed) and (cost_s := objective_s(problem, *placed)) < best[2]:
                best = (*placed, cost_s)
            slack = (len(program.value) + len(program.cost)) / 2
            bound_s = max(bound_s, (solver.best_objective_bound - slack) * unit_s / problem.num_samples)
        found = Status.OPTIMAL if best[2] - bound_s <= 1e-9 * best[2] else Status.FEASIBLE
        return PlacementSolution(found, *best, min(bound_s, best[2]), time.perf_counter() - start)
