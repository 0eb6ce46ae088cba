"""Compare dispatch strategies through the Python API: on random layers, or on a recorded routing trace.

python examples/compare_solvers.py [TRACE.npz]
"""

from __future__ import annotations

import sys

import numpy as np

from hetsched.cost.model import CostModel
from hetsched.dispatch.contest import contest
from hetsched.dispatch.instances import random_problem, trace_problems
from hetsched.dispatch.problem import DispatchProblem
from hetsched.machine.gallery import machine, model
from hetsched.traces.trace import load_trace
from hetsched.types import Phase

STRATEGIES = ["exact", "cp-sat", "mathopt-highs", "greedy-dali", "list-hybrimoe", "rule-fiddler", "sort", "all-cpu"]


def problems(trace_file: str | None) -> list[DispatchProblem]:
    """Verify steps of gpt-oss-20b with a quarter of its experts on an 8 GB laptop GPU, or random layers."""
    if trace_file is None:
        rng = np.random.default_rng(0)
        return [random_problem(rng, 16) for _ in range(50)]
    costs = CostModel(machine("rtx-4060-laptop-8gb"), model("gpt-oss-20b"))
    drawn = trace_problems(load_trace(trace_file), costs, gpu_fraction=0.25, phase=Phase.VERIFY, tokens=5, count=50)
    return list(drawn)


def main() -> None:
    """Print one line for each strategy, best first."""
    held = contest(STRATEGIES, problems(sys.argv[1] if len(sys.argv) > 1 else None))
    print(f"{held.instances} problems; above the optimum in % of the makespan")
    print(f"{'strategy':16} {'mean':>8} {'worst':>8} {'proved':>7} {'median':>10}")
    for row in sorted(held.rows(), key=lambda row: row.mean_ratio):
        mean, worst = 100 * (row.mean_ratio - 1), 100 * (row.worst_ratio - 1)
        print(f"{row.solver:16} {mean:8.3f} {worst:8.2f} {row.proved:7.0%} {row.median_s * 1e6:7.0f} µs")


if __name__ == "__main__":
    main()
