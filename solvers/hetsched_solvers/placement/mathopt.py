"""mathopt-highs for placement: the sample-average program by HiGHS through OR-Tools' MathOpt.

Each window has demands of its own, hence rows of its own, so nothing is kept from one call for the next but the
placement: it comes back as `current_LE`, and the start is a complete hint, which HiGHS takes as its first solution.
"""

from __future__ import annotations

import datetime
import time

import numpy as np
from ortools.math_opt import model_pb2
from ortools.math_opt.python import mathopt
from ortools.math_opt.solvers import highs_pb2

from hetsched.dispatch.placement import PlacementSolution, is_feasible, objective_s
from hetsched.dispatch.problem import PlacementProblem
from hetsched.dispatch.solver import Status
from hetsched.interruptible import solve_mathopt

from .linear import SparseProgram, sparse_program
from .start import hint, starting_point

UNITS = 100.0  # the objective's size in the program's units, against HiGHS' absolute tolerances


class PlacementHighs:
    """One thread, from the better of the fast path's placement and the current one, up to a relative `gap`."""

    name = "mathopt-highs"

    def __init__(self, gap: float = 1e-4, limit_s: float = 60.0) -> None:
        self.gap = gap
        self.limit_s = limit_s

    def solve(self, problem: PlacementProblem, *, time_limit_s: float | None = None) -> PlacementSolution:
        """The better of HiGHS' placement and the start, with the higher of HiGHS' bound and the fast path's."""
        start = time.perf_counter()
        first = starting_point(problem, time_limit_s)
        unit_s = first.objective_s / UNITS or 1.0
        program = sparse_program(problem, unit_s)
        limit_s = (self.limit_s if time_limit_s is None else time_limit_s) - (time.perf_counter() - start)
        if limit_s <= 0:
            return first
        result = self._run(program, first, limit_s)
        bound_s = max(first.bound_s, result.termination.objective_bounds.dual_bound * unit_s)
        best = (first.tier_LE, first.gpu_LE, first.objective_s)
        if result.has_primal_feasible_solution():
            chosen = {v.id for v, value in result.variable_values().items() if v.id < program.binaries and value > 0.5}
            placed = program.placement(problem, chosen)
            if is_feasible(problem, *placed) and (cost_s := objective_s(problem, *placed)) < best[2]:
                best = (*placed, cost_s)
        status = Status.OPTIMAL if best[2] - bound_s <= 1e-9 * best[2] else Status.FEASIBLE
        return PlacementSolution(status, *best, min(bound_s, best[2]), time.perf_counter() - start)

    def _run(self, program: SparseProgram, first: PlacementSolution, limit_s: float) -> mathopt.SolveResult:
        parameters = mathopt.SolveParameters(
            time_limit=datetime.timedelta(seconds=limit_s),
            highs=highs_pb2.HighsOptionsProto(int_options={"threads": 1}),
            relative_gap_tolerance=self.gap,
        )
        model = _model(program)
        values = dict(zip(model.variables(), hint(program, first), strict=True))
        start = mathopt.ModelSolveParameters(solution_hints=[mathopt.SolutionHint(variable_values=values)])
        return solve_mathopt(model, mathopt.SolverType.HIGHS, params=parameters, model_params=start)


def _model(program: SparseProgram) -> mathopt.Model:
    proto, columns = model_pb2.ModelProto(), len(program.cost)
    proto.variables.ids.extend(range(columns))
    proto.variables.lower_bounds.extend([0.0] * columns)
    proto.variables.upper_bounds.extend(program.high_column)
    proto.variables.integers.extend(c < program.binaries for c in range(columns))
    proto.objective.linear_coefficients.ids.extend(range(columns))
    proto.objective.linear_coefficients.values.extend(program.cost)
    proto.linear_constraints.ids.extend(range(len(program.low)))
    proto.linear_constraints.lower_bounds.extend(program.low)
    proto.linear_constraints.upper_bounds.extend(program.high)
    row, column, value = (np.array(v) for v in (program.row_id, program.column_id, program.value))
    order = np.lexsort((column, row))
    order = order[value[order] != 0]
    proto.linear_constraint_matrix.row_ids.extend(row[order].tolist())
    proto.linear_constraint_matrix.column_ids.extend(column[order].tolist())
    proto.linear_constraint_matrix.coefficients.extend(value[order].tolist())
    return mathopt.Model.from_model_proto(proto)
