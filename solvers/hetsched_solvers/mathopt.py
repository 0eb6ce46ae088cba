"""mathopt-highs: dispatch by HiGHS, through OR-Tools' MathOpt (highspy and ortools do not live in one process)."""

from __future__ import annotations

import datetime

import numpy as np
from ortools.math_opt import model_pb2
from ortools.math_opt.python import mathopt
from ortools.math_opt.solvers import highs_pb2

from .general import Answer, GeneralSolver
from .linear import LinearProgram


def as_model(program: LinearProgram, *, integer: bool) -> mathopt.Model:
    """The program as a MathOpt model, written as arrays in one go: term by term it would take longer than to solve."""
    columns, rows = program.num_columns, len(program.low_R)
    proto = model_pb2.ModelProto()
    proto.variables.ids.extend(range(columns))
    proto.variables.lower_bounds.extend([0.0] * columns)
    proto.variables.upper_bounds.extend([1.0] * (columns - 1) + [np.inf])
    proto.variables.integers.extend([integer] * (columns - 1) + [False])
    proto.objective.linear_coefficients.ids.extend(range(columns))
    proto.objective.linear_coefficients.values.extend(program.cost_C.tolist())
    proto.linear_constraints.ids.extend(range(rows))
    proto.linear_constraints.lower_bounds.extend(program.low_R.tolist())
    proto.linear_constraints.upper_bounds.extend([0.0] + [np.inf] * (rows - 1))
    row_ids, column_ids = np.nonzero(program.row_RC)
    proto.linear_constraint_matrix.row_ids.extend(row_ids.tolist())
    proto.linear_constraint_matrix.column_ids.extend(column_ids.tolist())
    proto.linear_constraint_matrix.coefficients.extend(program.row_RC[row_ids, column_ids].tolist())
    return mathopt.Model.from_model_proto(proto)


class MathOptHighs(GeneralSolver):
    """One thread, a fixed seed, no gap allowed."""

    name = "mathopt-highs"
    size_of_t = 1e3  # HiGHS' absolute tolerances of 1e-6 are small against that; at 1e4 its presolve fails at times
    tolerance = 1e-9

    def answer(self, program: LinearProgram, time_limit_s: float) -> Answer:
        """Solve to optimality or to the limit."""
        parameters = mathopt.SolveParameters(
            time_limit=datetime.timedelta(seconds=time_limit_s),
            highs=highs_pb2.HighsOptionsProto(int_options={"threads": 1}),  # the common field is refused for HiGHS
            random_seed=1,
            relative_gap_tolerance=0.0,
            absolute_gap_tolerance=0.0,
        )
        model = as_model(program, integer=True)
        try:
            result = mathopt.solve(model, mathopt.SolverType.HIGHS, params=parameters)
        except Exception as error:  # MathOpt raises what it cannot translate: an internal error of HiGHS, seldom
            return Answer(None, -np.inf, False, f"HiGHS failed: {error}")
        bound = result.termination.objective_bounds.dual_bound
        if not result.has_primal_feasible_solution():
            return Answer(None, bound, False, str(result.termination.reason))
        values = result.variable_values()
        value_C = np.array([values[variable] for variable in model.variables()])
        return Answer(value_C, bound, result.termination.reason == mathopt.TerminationReason.OPTIMAL, "")
