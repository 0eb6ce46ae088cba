"""mathopt-highs: dispatch by HiGHS, through OR-Tools' MathOpt (highspy and ortools do not live in one process).

Each call builds its model anew. MathOpt's IncrementalSolver was tried: of 200 problems with 16 experts 152 have columns
and rows of their own; where they agree, writing the changes took 2.2 times as long as writing the model (4.5 times with
32 experts), and solving as long as anew (1.03; HiGHS gains nothing from the last call). Writing the model is 2 % of a
call.
"""

from __future__ import annotations

import datetime

import numpy as np
from ortools.math_opt import model_pb2
from ortools.math_opt.python import mathopt
from ortools.math_opt.solvers import highs_pb2

from hetsched.interruptible import solve_mathopt

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
    """One thread, a fixed seed, no gap allowed; starts from the incumbent (or a better simple choice) as a hint.

    The hint makes it no faster (0.99 of the time without, over 120 problems); it gives a limit something to return.
    """

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
        values = dict(zip(model.variables(), program.start_C.tolist(), strict=True))
        start = mathopt.ModelSolveParameters(solution_hints=[mathopt.SolutionHint(variable_values=values)])
        try:
            result = solve_mathopt(model, mathopt.SolverType.HIGHS, params=parameters, model_params=start)
        except Exception as error:  # MathOpt raises what it cannot translate: an internal error of HiGHS, seldom
            return Answer(None, -np.inf, False, f"HiGHS failed: {error}")
        bound = result.termination.objective_bounds.dual_bound
        if not result.has_primal_feasible_solution():
            return Answer(None, bound, False, str(result.termination.reason))
        found = result.variable_values()
        value_C = np.array([found[variable] for variable in model.variables()])
        return Answer(value_C, bound, result.termination.reason == mathopt.TerminationReason.OPTIMAL, "")
