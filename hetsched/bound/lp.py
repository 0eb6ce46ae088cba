"""Linear programs as sparse arrays, solved through OR-Tools' MathOpt; what is returned is a proved lower bound.

Shapes: C columns, R rows, Z non-zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError, MissingDependencyError
from ..interruptible import solve_mathopt
from ..types import FloatArray, IntArray

SOLVERS = ("highs", "highs-simplex", "glop", "pdlp")


@dataclass(frozen=True)
class LinearProgram:
    """Minimise cost_C @ x with low_R <= A x <= high_R and 0 <= x <= upper_C, all upper_C finite.

    A in triplets: `row_Z`, `column_Z`, `value_Z`, each pair at most once.
    """

    cost_C: FloatArray
    upper_C: FloatArray
    low_R: FloatArray
    high_R: FloatArray
    row_Z: IntArray
    column_Z: IntArray
    value_Z: FloatArray

    def dual_bound(self, dual_R: FloatArray) -> float:
        """A lower bound of the program from any row prices, optimal or not (weak duality over the box of columns)."""
        usable = np.where(dual_R > 0, np.isfinite(self.low_R), np.isfinite(self.high_R))
        price_R = np.where(usable, dual_R, 0.0)
        side_R = np.where(price_R > 0, self.low_R, self.high_R)
        rows = float((price_R[price_R != 0] * side_R[price_R != 0]).sum())
        reduced_C = self.cost_C.copy()
        np.subtract.at(reduced_C, self.column_Z, price_R[self.row_Z] * self.value_Z)
        return rows + float((np.minimum(reduced_C, 0.0) * self.upper_C).sum())


def lower_bound(program: LinearProgram, solver: str = "highs") -> float:
    """The optimum of `program`, to the solver's accuracy and never above it: its row prices, checked by arithmetic.

    `solver`: one of SOLVERS; where "highs" fails, "highs-simplex" is asked. Raises InputError for another name, and
    RuntimeError where no prices are found.
    """
    if solver not in SOLVERS:
        raise InputError(f"solver {solver!r} is not one of {', '.join(SOLVERS)}")
    if not len(program.cost_C):
        return 0.0
    causes = []
    for method in (solver, "highs-simplex") if solver == "highs" else (solver,):
        dual_R, cause = _prices(program, method)
        if dual_R is not None:
            return program.dual_bound(dual_R)
        causes.append(f"{method}: {cause}")
    raise RuntimeError(f"no row prices for the clairvoyant bound: {'; '.join(causes)}")


def _prices(program: LinearProgram, solver: str) -> tuple[FloatArray | None, str]:
    """Row prices that the solver ends with, or None and the reason."""
    try:
        from ortools.math_opt.python import mathopt
    except ImportError:
        raise MissingDependencyError("ortools", "the clairvoyant bound", "pip install ortools") from None
    model = mathopt.Model.from_model_proto(_proto(program))
    kind = mathopt.SolverType[solver.split("-")[0].upper()]
    try:
        result = solve_mathopt(model, kind, params=_parameters(solver))
    except Exception as error:  # MathOpt raises what it cannot translate: an internal error of HiGHS, seldom
        return None, repr(error)
    if not result.solutions or result.solutions[0].dual_solution is None:
        return None, str(result.termination)
    prices = result.solutions[0].dual_solution.dual_values
    return np.array([prices[row] for row in model.linear_constraints()]), ""


def _proto(program: LinearProgram) -> Any:
    """The program as a MathOpt message, written as arrays in one go."""
    from ortools.math_opt import model_pb2

    columns, rows = range(len(program.cost_C)), range(len(program.low_R))
    order_Z = np.lexsort((program.column_Z, program.row_Z))
    proto = model_pb2.ModelProto()
    proto.variables.ids.extend(columns)
    proto.variables.lower_bounds.extend([0.0] * len(columns))
    proto.variables.upper_bounds.extend(program.upper_C.tolist())
    proto.variables.integers.extend([False] * len(columns))
    priced = program.cost_C.nonzero()[0]
    proto.objective.linear_coefficients.ids.extend(priced.tolist())
    proto.objective.linear_coefficients.values.extend(program.cost_C[priced].tolist())
    proto.linear_constraints.ids.extend(rows)
    proto.linear_constraints.lower_bounds.extend(program.low_R.tolist())
    proto.linear_constraints.upper_bounds.extend(program.high_R.tolist())
    proto.linear_constraint_matrix.row_ids.extend(program.row_Z[order_Z].tolist())
    proto.linear_constraint_matrix.column_ids.extend(program.column_Z[order_Z].tolist())
    proto.linear_constraint_matrix.coefficients.extend(program.value_Z[order_Z].tolist())
    return proto


def _parameters(solver: str) -> Any:
    """One thread each. "highs": interior points without crossover, since prices need not be those of a vertex."""
    from ortools.math_opt.python import mathopt
    from ortools.math_opt.solvers import highs_pb2

    if not solver.startswith("highs"):
        return mathopt.SolveParameters(threads=1)
    choice = {"solver": "ipm", "run_crossover": "off"} if solver == "highs" else {"solver": "simplex"}
    return mathopt.SolveParameters(
        highs=highs_pb2.HighsOptionsProto(int_options={"threads": 1}, string_options=choice), random_seed=1
    )
