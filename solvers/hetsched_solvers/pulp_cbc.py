"""pulp-cbc: dispatch by CBC through PuLP, as a program and two files: the slow, independent witness.

Each call builds its model anew: PuLP writes a file for every solve whatever it keeps, and building the variables and
rows is 8 % of a call with 16 experts, the process that it starts and waits for 80 %.
"""

from __future__ import annotations

import numpy as np
import pulp

from .general import Answer, GeneralSolver
from .linear import LinearProgram


class PulpCbc(GeneralSolver):
    """One thread, no gap allowed, the incumbent as a cutoff. PuLP hands no bound back, so only a proof gives one."""

    name = "pulp-cbc"
    size_of_t = 1e4

    def answer(self, program: LinearProgram, time_limit_s: float) -> Answer:
        """Write the model, run CBC, read the answer."""
        columns = [pulp.LpVariable(f"v{c}", 0, 1, "Integer") for c in range(program.num_columns - 1)]
        columns.append(pulp.LpVariable("t", 0))
        model = pulp.LpProblem("dispatch", pulp.LpMinimize)
        model += pulp.LpAffineExpression(zip(columns, program.cost_C.tolist(), strict=True))
        for r, (row, low) in enumerate(zip(program.row_RC, program.low_R.tolist(), strict=True)):
            terms = pulp.LpAffineExpression((columns[c], float(row[c])) for c in np.flatnonzero(row))
            sense = pulp.LpConstraintEQ if r == 0 else pulp.LpConstraintGE
            model += pulp.LpConstraint(terms, sense, f"r{r}", low)
        engine = pulp.PULP_CBC_CMD(msg=False, threads=1, timeLimit=time_limit_s, gapRel=0.0, options=["allowableGap 0"])
        status = pulp.LpStatus[model.solve(engine)]
        values = [column.value() for column in columns]
        if any(value is None for value in values):
            return Answer(None, -np.inf, False, status)
        proved = model.sol_status == pulp.LpSolutionOptimal and status == "Optimal"
        return Answer(np.array(values, float), -np.inf, proved, "" if proved else status)
