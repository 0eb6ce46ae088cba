"""rule-fiddler: each missing expert by itself, the CPU or a copy, whichever is shorter (Fiddler, arXiv 2402.07033).

The rule: run expert e on the CPU when cpu_s(n) < copy_s + gpu_s(n).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hetsched.dispatch.problem import Device, DispatchProblem

from .rule import Rule, fetchable, keep_here


class Fiddler(Rule):
    """Blind to lanes: two experts that share one do not know of each other."""

    name = "rule-fiddler"

    def choose(self, problem: DispatchProblem) -> npt.NDArray[np.int8]:
        """Fetch where that is shorter; with too few victims, where it saves most."""
        choice_N = keep_here(problem)
        saved_N = problem.cpu_s_N - problem.copy_s_N - problem.gpu_s_N
        worth = sorted((i for i in fetchable(problem) if saved_N[i] > 0), key=lambda i: -float(saved_N[i]))
        choice_N[worth[: len(problem.victim_price_V)]] = Device.FETCH
        return choice_N
