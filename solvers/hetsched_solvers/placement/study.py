"""Where placement by optimisation pays: `python -m hetsched_solvers.placement.study TRACE MODEL [SECONDS]`.

Fits on steps of the first half of a trace's tokens, scores on steps of the second half, against `sort` at equal bytes.
Prints one line a scenario: seconds a step of `sort` over those of each solver (above 1: the solver is faster).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from hetsched.cost.model import CostModel
from hetsched.dispatch.placement import layer_step_s, placement_problem
from hetsched.dispatch.problem import PlacementProblem
from hetsched.machine.gallery import machine, model
from hetsched.traces.trace import RoutingTrace, load_trace
from hetsched.types import FloatArray, IntArray

from .lagrange import PlacementLagrange
from .mathopt import PlacementHighs
from .sort import PlacementSort

HELD_OUT_STEPS = 400


@dataclass(frozen=True)
class Scenario:
    """One line of the study. `slow_tier`: a second precision of half the bytes that computes so many times slower."""

    tokens: int
    fraction: float
    fit_steps: int
    machine: str = "rtx-4060-laptop-8gb"
    gpus: int = 1
    slow_tier: float = 0.0


SCENARIOS = [
    *(Scenario(1, fraction, steps) for fraction in (0.1, 0.25, 0.5) for steps in (25, 200, 800)),
    *(Scenario(5, fraction, steps) for fraction in (0.25, 0.5, 0.75) for steps in (25, 200)),
    *(Scenario(256, fraction, steps) for fraction in (0.25, 0.5, 0.75) for steps in (8, 40)),
    Scenario(1, 0.5, 200, machine="rtx-5090"),
    Scenario(5, 0.5, 200, machine="rtx-5090"),
    *(Scenario(tokens, 0.5, 100, gpus=2) for tokens in (1, 5, 256)),
    *(Scenario(tokens, 0.25, 100, slow_tier=2.0) for tokens in (1, 5, 256)),
]


def study(trace: RoutingTrace, model_name: str, limit_s: float) -> None:
    """Print every scenario."""
    names = ("lagrange", "highs")
    print(
        "machine            tokens fraction fit gpus tiers | sort ms | " + " ".join(f"{n:>9}" for n in names) + " | gap"
    )
    for scenario in SCENARIOS:
        rng = np.random.default_rng(0)
        half = trace.num_tokens // 2
        fit = _posed(trace, scenario, model_name, rng, scenario.fit_steps, 0, half)
        held = _posed(trace, scenario, model_name, rng, HELD_OUT_STEPS, half, trace.num_tokens)
        sort = PlacementSort().solve(fit)
        lagrange, highs = PlacementLagrange().solve(fit), PlacementHighs().solve(fit, time_limit_s=limit_s)
        sort_s = layer_step_s(held, sort.tier_LE, sort.gpu_LE).sum() / held.num_samples
        ratios = [
            sort_s / (layer_step_s(held, found.tier_LE, found.gpu_LE).sum() / held.num_samples)
            for found in (lagrange, highs)
        ]
        tiers = len(fit.bytes_RLE)
        print(
            f"{scenario.machine:18} {scenario.tokens:6} {scenario.fraction:8} {scenario.fit_steps:3} {scenario.gpus:4} "
            f"{tiers:5} | {sort_s * 1e3:7.2f} | {ratios[0]:9.4f} {ratios[1]:9.4f} | {highs.gap:.2%} "
            f"in-sample {sort.objective_s / lagrange.objective_s:.4f} {sort.objective_s / highs.objective_s:.4f} "
            f"{lagrange.solve_s:.2f} s {highs.solve_s:.1f} s",
            flush=True,
        )


def _posed(
    trace: RoutingTrace, scenario: Scenario, model_name: str, rng: np.random.Generator, steps: int, low: int, high: int
) -> PlacementProblem:
    starts = rng.integers(low, high - scenario.tokens, steps)
    demand_SLE: IntArray = np.stack([trace.demand_LE(slice(s, s + scenario.tokens)) for s in starts.tolist()])
    geometry = model(model_name)
    costs = CostModel(machine(scenario.machine), geometry)
    n = np.arange(demand_SLE.max() + 1)
    gpu_s: FloatArray = costs.gpu_s(n)
    num_bytes = geometry.expert_bytes
    tables, sizes = [gpu_s], [num_bytes]
    if scenario.slow_tier:
        tables.append(gpu_s * scenario.slow_tier)
        sizes.append(num_bytes // 2)
    capacity = int(scenario.fraction * demand_SLE[0].size * num_bytes) // scenario.gpus
    return placement_problem(
        demand_SLE,
        gpu_s_of=tables,
        cpu_s_of=costs.cpu_s(n),
        tier_bytes=sizes,
        tier_copy_s=[costs.copy_s(size) for size in sizes],
        capacity_bytes_G=[capacity] * scenario.gpus,
        dense_s=costs.dense_s(scenario.tokens),
        roundtrip_s=costs.cpu_start_s(scenario.tokens),
        gpu_call_s=costs.gpu_call_s(),
        window_steps=10**9,  # placed at load: copies are free
    )


if __name__ == "__main__":
    study(load_trace(sys.argv[1]), sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 20.0)
