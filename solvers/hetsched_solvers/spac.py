"""threshold-spac: fetch what has at least a certain utility level (MoE-SpAc, arXiv 2603.09983).

Levels 0..5. The public code fixes the threshold at 1; the paper chooses it online by integer optimisation so that the
lanes balance, which the code leaves as a to-do. Here the one integer variable has six values, so the integer program is
solved by trying them: the lowest makespan is where the lanes are closest to balance.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hetsched.dispatch.problem import Device, DispatchProblem
from hetsched.types import IntArray

from .rule import Rule, fetchable, keep_here

TOP_LEVEL = 5


def utility_levels(problem: DispatchProblem) -> IntArray:
    """Level 0..5 of each expert: its share of the largest utility, or of the largest demand where there are none."""
    worth_N = problem.utility_N if problem.utility_N.any() else problem.cpu_s_N
    most = worth_N.max(initial=0.0)
    if most == 0:
        return np.zeros(problem.size, np.int64)
    level_N: IntArray = np.ceil(TOP_LEVEL * (worth_N / most)).astype(np.int64)
    return level_N


def at_threshold(problem: DispatchProblem, threshold: int) -> npt.NDArray[np.int8]:
    """Fetch the misses with a level of at least `threshold`, highest level first, while there are victims."""
    choice_N, level_N = keep_here(problem), utility_levels(problem)
    chosen = sorted((i for i in fetchable(problem) if level_N[i] >= threshold), key=lambda i: -int(level_N[i]))
    choice_N[chosen[: len(problem.victim_price_V)]] = Device.FETCH
    return choice_N


class SpacFixed(Rule):
    """Threshold 1, as the public code has it."""

    name = "threshold-spac-fixed"

    def choose(self, problem: DispatchProblem) -> npt.NDArray[np.int8]:
        """Fetch at level 1 and above."""
        return at_threshold(problem, 1)


class Spac(Rule):
    """The threshold that balances the lanes, as the paper has it; 6 means that nothing is fetched."""

    name = "threshold-spac"

    def choose(self, problem: DispatchProblem) -> npt.NDArray[np.int8]:
        """The choice with the shortest makespan of the seven; the highest threshold among equals."""
        choices = [at_threshold(problem, threshold) for threshold in range(TOP_LEVEL + 1, -1, -1)]
        return min(choices, key=problem.makespan_s)
