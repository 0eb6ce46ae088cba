"""lagrange: the fast path of placement, a sort by worth with weights on the lanes, and a lower bound.

Shapes: M recorded layer-steps, L layers, E experts, R tiers, G GPUs.

A layer-step is at least the weighted mean of its lanes: weight w on the CPU, (1 - w) / G on each GPU. Then every expert
has a worth of its own, the sum over layer-steps of w cpu_s - (1 - w) / G gpu_s, and what remains is a knapsack, bounded
by its linear relaxation. Subgradient steps move each weight towards the longer lane; worths of some steps are also
filled into a placement, and the best one is kept.
"""

from __future__ import annotations

import time

import numpy as np

from hetsched.dispatch.placement import Placed, PlacementSolution, objective_s
from hetsched.dispatch.problem import PlacementProblem
from hetsched.dispatch.solver import Status
from hetsched.types import FloatArray

from .fill import fill
from .sort import PlacementSort, summed_by_layer


class PlacementLagrange:
    """`steps` of the subgradient method, fewer at a time limit; a placement is filled at every `every`-th."""

    name = "lagrange"

    def __init__(self, steps: int = 60, every: int = 5) -> None:
        self.steps = steps
        self.every = every

    def solve(self, problem: PlacementProblem, *, time_limit_s: float | None = None) -> PlacementSolution:
        """The best placement met and the best bound."""
        start = time.perf_counter()
        first = PlacementSort().solve(problem)
        best_s, best, bound_s = first.objective_s, (first.tier_LE, first.gpu_LE), -np.inf
        weight_M = np.full(len(problem.layer_M), 0.9)
        for step in range(self.steps):
            worth_RLE = worths(problem, weight_M)
            taken_RLE, step_bound_s = relaxed(problem, weight_M, worth_RLE)
            bound_s = max(bound_s, step_bound_s)
            if step % self.every == 0:
                placed = fill(problem, worth_RLE)
                cost_s = objective_s(problem, *placed)
                if cost_s < best_s:
                    best_s, best = cost_s, placed
            if time_limit_s is not None and time.perf_counter() - start > time_limit_s:
                break
            cpu_M, gpu_M = lane_lengths(problem, taken_RLE)
            towards_M = (cpu_M - gpu_M) / np.maximum(np.maximum(cpu_M, gpu_M), 1e-30)
            weight_M = np.clip(weight_M + 0.3 / (1 + step / 10) * towards_M, 0.0, 1.0)
        return _solution(best, best_s, bound_s, time.perf_counter() - start)


def worths(problem: PlacementProblem, weight_M: FloatArray) -> FloatArray:
    """Seconds a step that each expert saves in each tier under the weights, less its copy; float [R, L, E]."""
    saved_LE = summed_by_layer(problem, problem.cpu_s_ME * weight_M[:, None])
    share_M = (1 - weight_M) / len(problem.capacity_bytes_G)
    spent_RLE = np.stack([summed_by_layer(problem, gpu_s_ME * share_M[:, None]) for gpu_s_ME in problem.gpu_s_RME])
    tiers = np.arange(len(problem.bytes_RLE))[:, None, None]
    copy_RLE = np.where(tiers == problem.current_LE[None], 0.0, problem.copy_s_RLE) / problem.window_steps
    worth_RLE: FloatArray = (saved_LE[None] - spent_RLE) / problem.num_samples - copy_RLE
    return worth_RLE


def relaxed(problem: PlacementProblem, weight_M: FloatArray, worth_RLE: FloatArray) -> tuple[FloatArray, float]:
    """Relaxed knapsack: what it takes of each expert (float [R, L, E]) and the lower bound on the objective.

    For any price of a byte, all-on-CPU less what is worth more than its bytes, less the price of the capacity, is a
    bound; the price is found by bisection. Round trips and calls are left out, as they may be avoided.
    """
    capacity = float(problem.capacity_bytes_G.sum())
    low, high = 0.0, float((worth_RLE / np.maximum(problem.bytes_RLE, 1)).max(initial=0.0))
    for _ in range(30):
        price = (low + high) / 2
        used = _taken(problem, worth_RLE, price)[1]
        low, high = (price, high) if used > capacity else (low, price)
    taken_RLE, _ = _taken(problem, worth_RLE, high)
    profit_LE = np.maximum((worth_RLE - high * problem.bytes_RLE).max(axis=0), 0.0)
    start_M = problem.dense_s_M + weight_M * problem.cpu_s_ME.sum(axis=1)
    return taken_RLE, float(start_M.sum() / problem.num_samples - profit_LE.sum() - high * capacity)


def _taken(problem: PlacementProblem, worth_RLE: FloatArray, price: float) -> tuple[FloatArray, float]:
    profit_RLE = worth_RLE - price * problem.bytes_RLE
    tiers = np.arange(len(problem.bytes_RLE))[:, None, None]
    taken_RLE = ((profit_RLE > 0) & (profit_RLE.argmax(axis=0)[None] == tiers)).astype(float)
    return taken_RLE, float((taken_RLE * problem.bytes_RLE).sum())


def lane_lengths(problem: PlacementProblem, taken_RLE: FloatArray) -> tuple[FloatArray, FloatArray]:
    """CPU lane and mean GPU lane of every layer-step, float [M] each."""
    taken_RME = taken_RLE[:, problem.layer_M]
    cpu_M = (problem.cpu_s_ME * (1 - taken_RME.sum(axis=0))).sum(axis=1)
    gpu_M = (problem.gpu_s_RME * taken_RME).sum(axis=(0, 2)) / len(problem.capacity_bytes_G)
    return cpu_M, gpu_M


def _solution(placed: tuple[Placed, Placed], cost_s: float, bound_s: float, took_s: float) -> PlacementSolution:
    status = Status.OPTIMAL if cost_s - bound_s <= 1e-9 * cost_s else Status.FEASIBLE
    return PlacementSolution(status, *placed, cost_s, min(bound_s, cost_s), took_s)
