"""sort: the experts that were asked for most, until the bytes are used. What every placement is compared with.

Shapes: M recorded layer-steps, L layers, E experts, R tiers.
"""

from __future__ import annotations

import time

import numpy as np

from hetsched.dispatch.placement import PlacementSolution, objective_s
from hetsched.dispatch.problem import PlacementProblem
from hetsched.dispatch.solver import Status
from hetsched.types import FloatArray

from .fill import fill


def summed_by_layer(problem: PlacementProblem, values_ME: FloatArray) -> FloatArray:
    """Sum of layer-step values per layer and expert, float [L, E]."""
    total_LE = np.zeros(problem.current_LE.shape)
    np.add.at(total_LE, problem.layer_M, values_ME)
    return total_LE


class PlacementSort:
    """By tokens routed to the expert; of several tiers only the smallest, so that most fit."""

    name = "sort"

    def solve(self, problem: PlacementProblem, *, time_limit_s: float | None = None) -> PlacementSolution:
        """One sort. The limit is ignored."""
        start = time.perf_counter()
        frequency_LE = summed_by_layer(problem, problem.tokens_ME.astype(float))
        worth_RLE = np.zeros(problem.bytes_RLE.shape)
        worth_RLE[int(problem.bytes_RLE.sum(axis=(1, 2)).argmin())] = frequency_LE
        tier_LE, gpu_LE = fill(problem, worth_RLE)
        cost_s = objective_s(problem, tier_LE, gpu_LE)
        return PlacementSolution(Status.FEASIBLE, tier_LE, gpu_LE, cost_s, -np.inf, time.perf_counter() - start)
