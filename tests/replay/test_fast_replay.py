"""Counting and pricing gives what simulating layer by layer gives."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.geometry import MoEGeometry
from hetsched.machine import gallery
from hetsched.machine.hardware import nominal_cpu
from hetsched.machine.profile import HardwareProfile
from hetsched.policies.lru import OnDemandLru
from hetsched.policies.static import StaticFrequency
from hetsched.replay.fast import fast_replay
from hetsched.replay.simulator import ConstantClock, Replay, simulate
from hetsched.replay.steps import Steps, steps_of
from hetsched.scheduler import Scheduler
from hetsched.traces.trace import RoutingTrace, load_trace
from hetsched.types import Phase
from tests.replay.flat_cost import random_trace
from tests.replay.test_cache_policies import CACHES

TRACES = Path(os.environ.get("HETSCHED_TRACES", Path(__file__).parents[2].parent / "shared" / "traces"))
COUNTED = [*CACHES, "belady", "layer-stream", "cpu-only", "layer-split", "static-frequency"]
CHARGE_S = 2e-5
HOST_S = 3e-4
SHAPE = MoEGeometry("small", num_layers=4, num_experts=10, top_k=3, hidden=1024, ffn=2048, dense_params=4_000_000)
LAPTOP = "rtx-4060-laptop-8gb"


def scheduler(policy: object, slots: int, trace: RoutingTrace, hardware: HardwareProfile, shape: MoEGeometry = SHAPE):
    return Scheduler(
        shape,
        hardware,
        slots * shape.expert_bytes,
        policy=policy,
        frequency_LE=trace.demand_LE(slice(0, 20)).astype(float),
        future=trace,
        clock=ConstantClock(CHARGE_S),
    )


def assert_same(fast: Replay | None, slow: Replay) -> None:
    """Every count equal, every time to rounding."""
    assert fast is not None
    np.testing.assert_allclose(fast.step_s_S, slow.step_s_S, rtol=1e-9)
    for field in fields(slow.stats):
        if not field.name.startswith("_"):
            found, wanted = getattr(fast.stats, field.name), getattr(slow.stats, field.name)
            if isinstance(wanted, float):
                assert found == pytest.approx(wanted, rel=1e-9), field.name
            else:
                assert found == wanted, field.name
                assert type(found) is type(wanted), field.name


def both(policy: object, slots: int, trace: RoutingTrace, steps: Steps, hardware: HardwareProfile, shape=SHAPE) -> None:
    for host_s in (0.0, HOST_S):
        slow = simulate(trace, steps, scheduler(policy, slots, trace, hardware, shape), host_s=host_s)
        made = scheduler(policy, slots, trace, hardware, shape)
        assert_same(fast_replay(trace, steps, made, CHARGE_S, host_s=host_s), slow)


@pytest.mark.parametrize("slots", [0, 1, 2, 5, 13, 40])
@pytest.mark.parametrize("policy", COUNTED)
def test_equal_on_made_traces(policy: str, slots: int) -> None:
    """On a machine whose lanes slow each other."""
    hardware = gallery.machine(LAPTOP)
    assert hardware.cpu_slowdown > 1 or hardware.h2d_slowdown > 1
    trace = random_trace(np.random.default_rng(slots), 60, 4, 10, 3)
    both(policy, slots, trace, steps_of(trace, mode="decode"), hardware)


@pytest.mark.parametrize("policy", COUNTED)
def test_equal_in_pieces(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted goes on where the last piece ended."""
    monkeypatch.setattr("hetsched.replay.fast.TOKENS_AT_ONCE", 7)
    trace = random_trace(np.random.default_rng(5), 40, 4, 10, 3)
    both(policy, 9, trace, steps_of(trace, mode="decode"), gallery.machine(LAPTOP))


@pytest.mark.parametrize("policy", COUNTED)
def test_equal_without_a_gpu(policy: str) -> None:
    trace = random_trace(np.random.default_rng(6), 10, 4, 10, 3)
    both(policy, 9, trace, steps_of(trace, mode="decode"), nominal_cpu())


def test_prefill_tokens_are_no_decode_tokens() -> None:
    trace = random_trace(np.random.default_rng(7), 30, 4, 10, 3)
    steps = steps_of(trace, mode="decode")
    steps = replace(steps, phase_S=np.where(np.arange(30) < 12, Phase.PREFILL, Phase.DECODE).astype(np.uint8))
    both("on-demand-lru", 9, trace, steps, gallery.machine(LAPTOP))


@pytest.mark.parametrize(
    ("name", "model"), [("gpt-oss-20b.decode", "gpt-oss-20b"), ("deepseek-v2-lite.esft", "deepseek-v2-lite")]
)
def test_equal_on_recorded_traces(name: str, model: str) -> None:
    path = TRACES / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no {name}.npz in {TRACES}; set HETSCHED_TRACES to the folder of recorded traces")
    trace, shape = load_trace(path), gallery.model(model)
    steps = steps_of(trace, mode="decode", max_tokens=40)
    for policy in COUNTED:
        both(policy, shape.num_layers * shape.num_experts // 4, trace, steps, gallery.machine(LAPTOP), shape)


class PlansAnew(StaticFrequency):
    """A subclass whose plan is not what its parent counts."""

    def plan(self, demand, view):
        return super().plan(demand, view)


class CountsLess(OnDemandLru):
    """A subclass that cannot count what comes."""

    def counts(self, experts_TLK, residency):
        return None


@pytest.mark.parametrize("policy", ["hetsched", PlansAnew(), CountsLess()])
def test_it_does_not_speak_for_policies_that_do_not_count(policy: object) -> None:
    trace = random_trace(np.random.default_rng(8), 10, 4, 10, 3)
    steps = steps_of(trace, mode="decode")
    assert fast_replay(trace, steps, scheduler(policy, 9, trace, gallery.machine(LAPTOP)), CHARGE_S) is None


def test_it_does_not_apply_to_steps_of_several_tokens_nor_to_a_used_scheduler() -> None:
    trace, hardware = random_trace(np.random.default_rng(9), 12, 4, 10, 3), gallery.machine(LAPTOP)
    used = scheduler("static-frequency", 9, trace, hardware)
    assert fast_replay(trace, steps_of(trace, verify=2), used, CHARGE_S) is None
    assert fast_replay(trace, steps_of(trace, mode="decode"), used, CHARGE_S) is not None
    assert fast_replay(trace, steps_of(trace, mode="decode"), used, CHARGE_S) is None


def test_layer_stream_is_not_counted_where_layers_follow_themselves() -> None:
    trace = random_trace(np.random.default_rng(10), 12, 1, 10, 3)
    made = scheduler("layer-stream", 9, trace, gallery.machine(LAPTOP), replace(SHAPE, num_layers=1))
    assert fast_replay(trace, steps_of(trace, mode="decode"), made, CHARGE_S) is None


def test_another_models_trace_is_refused() -> None:
    trace = random_trace(np.random.default_rng(11), 4, 3, 10, 3)
    made = scheduler("cpu-only", 9, random_trace(np.random.default_rng(11), 4, 4, 10, 3), gallery.machine(LAPTOP))
    with pytest.raises(InputError, match="3 MoE layers"):
        fast_replay(trace, steps_of(trace), made, CHARGE_S)
