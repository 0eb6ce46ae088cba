"""sort: fetch the k misses with the most work, for the best k. The simple rule that any optimiser must beat."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hetsched.dispatch.problem import Device, DispatchProblem

from .rule import Rule, fetchable, keep_here


class Sort(Rule):
    """Optimal with equal copies, no utilities and a flat gpu_s, as long as the GPU lane is not the longer one."""

    name = "sort"

    def choose(self, problem: DispatchProblem) -> npt.NDArray[np.int8]:
        """The best prefix, by the full objective."""
        choice_N = keep_here(problem)
        best_N, best_s = choice_N.copy(), problem.objective_s(choice_N)
        for i in fetchable(problem)[: len(problem.victim_price_V)]:
            choice_N[i] = Device.FETCH
            objective_s = problem.objective_s(choice_N)
            if objective_s < best_s:
                best_N, best_s = choice_N.copy(), objective_s
        return best_N
