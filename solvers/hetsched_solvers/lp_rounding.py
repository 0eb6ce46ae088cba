"""lp-rounding: the linear relaxation by GLOP (OR-Tools MathOpt), rounded at every threshold.

The model is built anew at each call: with MathOpt's IncrementalSolver on problems of the same rows, changed coefficient
by coefficient, a call took 1.75 times as long.
"""

from __future__ import annotations

import datetime

import numpy as np
from ortools.math_opt.python import mathopt

from hetsched.interruptible import solve_mathopt

from .general import Answer, GeneralSolver
from .linear import LinearProgram
from .mathopt import as_model


class LpRounding(GeneralSolver):
    """The relaxation's value is the bound; the answer is the best of the choices x >= threshold."""

    name = "lp-rounding"
    size_of_t = 1e3
    tolerance = 1e-7  # GLOP's

    def answer(self, program: LinearProgram, time_limit_s: float) -> Answer:
        """Solve the relaxation, try every rounding that its values suggest."""
        parameters = mathopt.SolveParameters(time_limit=datetime.timedelta(seconds=time_limit_s), threads=1)
        model = as_model(program, integer=False)
        result = solve_mathopt(model, mathopt.SolverType.GLOP, params=parameters)
        if not result.has_primal_feasible_solution():
            return Answer(None, -np.inf, False, str(result.termination.reason))
        values = result.variable_values()
        value_C = np.array([values[variable] for variable in model.variables()])
        x_M, best_M, best_s = value_C[: program.movable], None, np.inf
        for threshold in np.unique(np.append(x_M, 2.0)):
            choice_N = program.choice(x_M >= threshold)
            if program.problem.is_feasible(choice_N) and (found_s := program.problem.objective_s(choice_N)) < best_s:
                best_M, best_s = x_M >= threshold, found_s
        if best_M is not None:
            value_C[: program.movable] = best_M
        return Answer(value_C, result.termination.objective_bounds.dual_bound, False, "")
