"""cp-sat: dispatch by OR-Tools' CP-SAT, the oracle for problems too large for brute force.

CP-SAT computes in whole numbers: times become multiples of 2^-40 of the longest useful makespan. A row of C terms is
then off by at most C / 2 multiples, 1.4e-10 of that makespan with 300 columns; the bound is lowered by as much.
CP-SAT has no incremental interface, so each call builds its model.
Presolve is off: with it, CP-SAT 9.15 called 2 of 100 choices optimal that were not (multiples of 2^-34 and finer).
"""

from __future__ import annotations

import numpy as np
from ortools.sat.python import cp_model

from hetsched.interruptible import interruptible
from hetsched.types import FloatArray

from .general import Answer, GeneralSolver
from .linear import LinearProgram

MULTIPLES = float(1 << 40)


class CpSat(GeneralSolver):
    """One worker, a fixed seed, and the incumbent (or a better simple choice) as a complete hint."""

    name = "cp-sat"
    size_of_t = MULTIPLES
    tolerance = 2e-10

    def answer(self, program: LinearProgram, time_limit_s: float) -> Answer:
        """Build the integer model and solve it."""
        model = cp_model.CpModel()
        columns = [model.new_bool_var("") for _ in range(program.num_columns - 1)]
        longest = 4 * int(MULTIPLES)
        columns.append(model.new_int_var(0, longest, "t"))
        for r, (row, low) in enumerate(zip(program.row_RC, program.low_R, strict=True)):
            used = np.flatnonzero(row)
            terms = cp_model.LinearExpr.weighted_sum([columns[c] for c in used], _whole(row[used]))
            model.add(terms == 0) if r == 0 else model.add(terms >= int(np.rint(low)))
        model.minimize(cp_model.LinearExpr.weighted_sum(columns, _whole(program.cost_C)))
        for column, value in zip(columns, _whole(program.start_C), strict=True):
            model.add_hint(column, min(value, longest))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        solver.parameters.cp_model_presolve = False
        solver.parameters.max_time_in_seconds = time_limit_s
        solver.parameters.catch_sigint_signal = False  # it would end the search and say nothing
        status = interruptible(lambda: solver.solve(model), solver.stop_search)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return Answer(None, -np.inf, False, solver.status_name(status))
        value_C = np.array([solver.value(column) for column in columns], float)
        return Answer(value_C, solver.best_objective_bound, status == cp_model.OPTIMAL, "")


def _whole(values: FloatArray) -> list[int]:
    return [int(v) for v in np.rint(values)]
