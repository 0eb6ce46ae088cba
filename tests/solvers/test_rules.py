"""Each rule on arithmetic that can be done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hetsched.dispatch.problem import DispatchProblem, frozen
from hetsched.plugins import plugin
from hetsched_solvers.spac import utility_levels

INF = math.inf


def missing(cpu: list[float], gpu: float = 0.1, copy: float = 1.0, slots: int = 9, **fields: object) -> DispatchProblem:
    """Experts that are all missing, with equal GPU and copy times."""
    size = len(cpu)
    columns = [[gpu] * size, cpu, [copy] * size, [INF] * size, fields.pop("utility", [0.0] * size), [0.0] * slots]
    return DispatchProblem(*(frozen(column) for column in columns), **fields)  # type: ignore[arg-type]


def choice(name: str, problem: DispatchProblem) -> str:
    """The rule's devices as letters."""
    return "".join("CGF"[device] for device in plugin("hetsched.solvers", name)().solve(problem).choice_N)


@pytest.mark.parametrize(
    ("name", "problem", "expected"),
    [
        # 1.0 + 0.1 against 1.05 and 1.2
        ("rule-fiddler", missing([1.05, 1.2]), "CF"),
        ("rule-fiddler", missing([3.0, 9.0, 5.0], slots=2), "CFF"),
        # 4: fetch ends 1.1, CPU 4; 3: fetch 2.1, CPU 3; 2: fetch 3.1, CPU 2; 1: fetch 3.1, CPU 3
        ("greedy-dali", missing([4.0, 3.0, 2.0, 1.0]), "FFCC"),
        # LINK takes 4 (1.1 < 0 + 1); no: CPU takes 1 (ends 1), LINK 4 (1.1), LINK 3 (2.1), CPU 2 (3)
        ("list-hybrimoe", missing([4.0, 3.0, 2.0, 1.0]), "FFCC"),
        # share = 3 / (3 + 1): three of four, in order
        ("ratio-freetoken", missing([3.0, 3.0, 3.0, 3.0]), "FFFC"),
        # levels 5, 2, 0, 0: threshold 1 fetches two; of all thresholds fetching two ends first (CPU 2, GPU 2.1)
        ("threshold-spac-fixed", missing([2.0, 2.0, 1.0, 1.0], utility=[1.0, 0.3, 0.0, 0.0]), "FFCC"),
        ("threshold-spac", missing([2.0, 2.0, 1.0, 1.0], utility=[1.0, 0.3, 0.0, 0.0]), "FFCC"),
        # threshold 1 fetches all four (4.1); the balanced one fetches the first alone (1.1 against 3 * 0.5)
        ("threshold-spac", missing([0.5] * 4, utility=[1.0, 0.5, 0.5, 0.5]), "FCCC"),
        # one fetch: max(1.1, 6); two: max(2.1, 3); three: 3.1
        ("sort", missing([1.0, 4.0, 3.0, 2.0]), "CFFC"),
        ("all-cpu", missing([9.0, 9.0]), "CC"),
        ("all-fetch", missing([1.0, 3.0, 2.0], slots=2), "CFF"),
    ],
)
def test_rule(name: str, problem: DispatchProblem, expected: str) -> None:
    """The published rule, worked out by hand."""
    assert choice(name, problem) == expected


def test_rules_leave_alone_what_cannot_be_fetched() -> None:
    """No link, no slot: everything stays on the CPU."""
    for name in ("rule-fiddler", "greedy-dali", "list-hybrimoe", "ratio-freetoken", "threshold-spac", "sort"):
        assert choice(name, missing([9.0, 9.0], slots=0)) == "CC"
        assert choice(name, missing([9.0, 9.0], copy=INF)) == "CC"


def test_hybrimoe_helps_the_gpu() -> None:
    """A CPU without misses takes the lowest loads of a long GPU lane: 6 on the GPU become 1 + 2 against 2."""
    columns = ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0], [1.0] * 3, [0.0] * 3, [0.0] * 3, [])
    assert choice("list-hybrimoe", DispatchProblem(*(frozen(column) for column in columns))) == "CCG"


def test_spac_levels_run_from_zero_to_five() -> None:
    """A share of the largest utility; demand where there are no utilities."""
    assert utility_levels(missing([1.0] * 4, utility=[1.0, 0.5, 0.1, 0.0])).tolist() == [5, 3, 1, 0]
    assert utility_levels(missing([1.0, 2.0])).tolist() == [3, 5]
    assert utility_levels(missing(np.zeros(2).tolist())).tolist() == [0, 0]
