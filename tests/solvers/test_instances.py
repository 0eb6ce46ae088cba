"""Traces are checked when read; real instances stand for what the trace holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsched.dispatch.guard import solve_guarded
from hetsched.dispatch.instances import KINDS, random_problem, trace_problems
from hetsched.dispatch.solver import Status
from hetsched.errors import InputError
from hetsched.traces.trace import load_trace
from hetsched.types import FloatArray, Phase
from hetsched_solvers.exact.solver import Exact

TRACES = Path(os.environ.get("HETSCHED_TRACES", Path(__file__).parents[2].parent / "shared" / "traces"))


class Linear:
    """gpt-oss on a laptop, roughly: a CostModel's methods with straight lines."""

    def gpu_s(self, n: Any) -> FloatArray:
        """53 µs and a little for each further token."""
        return np.where(np.asarray(n) > 0, 53e-6 + 1e-6 * np.asarray(n, float), 0.0)

    def cpu_s(self, n: Any) -> FloatArray:
        """264 µs and 40 for each further token."""
        return np.where(np.asarray(n) > 0, 224e-6 + 40e-6 * np.asarray(n, float), 0.0)

    def copy_s(self) -> float:
        """1.1 ms."""
        return 1.1e-3

    def cpu_start_s(self, num_tokens: int) -> float:
        """20 µs."""
        return 20e-6

    def gpu_call_s(self) -> float:
        """15 µs."""
        return 15e-6


def written(folder: Path, **changes: Any) -> Path:
    """A small trace file: 40 tokens, 3 layers, 2 of 8 experts."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "experts": rng.random((40, 3, 8)).argsort(axis=2)[:, :, :2].astype(np.int16),
        "sequence": np.repeat(np.arange(4), 10).astype(np.int32),
        "phase": np.ones(40, np.uint8),
        "meta": np.array(json.dumps({"format": "hetsched-routing-trace/1", "num_experts": 8})),
    }
    arrays = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    np.savez(folder / "trace.npz", **arrays)
    return folder / "trace.npz"


def test_a_trace_is_read_as_written(tmp_path: Path) -> None:
    """Shapes, and demand that counts every choice once."""
    trace = load_trace(written(tmp_path))
    assert (trace.num_tokens, trace.num_layers, trace.num_experts) == (40, 3, 8)
    assert trace.demand_LE(slice(5, 9)).sum(axis=1).tolist() == [8, 8, 8]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"experts": np.zeros((40, 3), np.int16)}, "experts"),
        ({"experts": np.full((40, 3, 2), 8, np.int16)}, "experts"),
        ({"phase": np.ones(39, np.uint8)}, "phase"),
        ({"sequence": None}, "sequence"),
        ({"meta": np.array("{")}, "meta"),
        ({"meta": np.array(json.dumps({"num_experts": "8"}))}, "num_experts"),
        ({"experts": np.array([{}], object)}, "pickle"),
    ],
)
def test_bad_traces_name_the_array(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    """Also pickles, which are never loaded."""
    with pytest.raises(InputError, match=named):
        load_trace(written(tmp_path, **changes))


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    """No traceback for a wrong path."""
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("text.npz", "absent.npz"):
        with pytest.raises(InputError, match=name):
            load_trace(tmp_path / name)


def test_instances_hold_the_demand_of_the_trace(tmp_path: Path) -> None:
    """One decode token has top-k experts; everything resident leaves nothing to fetch."""
    trace = load_trace(written(tmp_path))
    costs = Linear()
    for problem in trace_problems(trace, costs, gpu_fraction=1.0, phase=Phase.DECODE, count=20):
        assert problem.size == 2
        assert (problem.ready_s_N == 0).all()
    for problem in trace_problems(trace, costs, gpu_fraction=0.0, phase=Phase.VERIFY, count=20):
        tokens_N = (problem.cpu_s_N - 224e-6) / 40e-6
        assert tokens_N.sum() == pytest.approx(5 * 2)
        assert (problem.ready_s_N > 0).all()
        assert len(problem.victim_price_V) == 0


@pytest.mark.parametrize(("fraction", "tokens"), [(1.5, 1), (0.5, 0), (0.5, 99)])
def test_instances_refuse_what_cannot_be(tmp_path: Path, fraction: float, tokens: int) -> None:
    """Fractions outside 0..1, steps longer than half the trace."""
    trace = load_trace(written(tmp_path))
    with pytest.raises(InputError, match="must lie in"):
        next(trace_problems(trace, Linear(), gpu_fraction=fraction, phase=Phase.DECODE, tokens=tokens))


def test_random_instances_are_valid_and_repeatable() -> None:
    """The same seed gives the same problem; every kind at every size passes validation."""
    for kind in KINDS:
        for size in (0, 1, 9):
            first, again = (random_problem(np.random.default_rng(size), size, kind) for _ in range(2))
            first.validate()
            np.testing.assert_array_equal(first.packed, again.packed)


@pytest.mark.parametrize("phase", [Phase.DECODE, Phase.VERIFY, Phase.PREFILL])
@pytest.mark.parametrize("name", ["gpt-oss-20b.decode.npz", "deepseek-v2-lite.esft.npz"])
def test_recorded_instances_are_solved_with_a_small_gap(name: str, phase: Phase) -> None:
    """Real routing: mean gap at most 0.05 %, worst at most 1 %."""
    if not (TRACES / name).exists():
        pytest.skip(f"no {name} in {TRACES}; set HETSCHED_TRACES to the folder of recorded traces")
    gaps = []
    for problem in trace_problems(load_trace(TRACES / name), Linear(), gpu_fraction=0.25, phase=phase, count=100):
        found = solve_guarded(Exact(), problem)
        assert found.status is not Status.INCUMBENT
        gaps.append((found.objective_s - found.bound_s) / found.makespan_s)
    assert np.mean(gaps) <= 5e-4
    assert max(gaps) <= 1e-2
