"""Simulator: tiny traces by hand, static placements recomputed, determinism, and the bounds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from hetsched.board import N_DECODED
from hetsched.bound.clairvoyant import all_resident_bound, clairvoyant_bound
from hetsched.cost.model import CostModel
from hetsched.errors import InputError
from hetsched.geometry import MoEGeometry
from hetsched.machine.gallery import machine
from hetsched.plugins import installed
from hetsched.policies.static import StaticFrequency
from hetsched.policy import View
from hetsched.replay.simulator import ConstantClock, Replay, simulate
from hetsched.replay.steps import Steps, steps_of
from hetsched.residency import ResidencyError
from hetsched.scheduler import PlanError, Scheduler
from hetsched.traces.trace import RoutingTrace
from hetsched.types import Demand, Fetch, Phase
from tests.replay.flat_cost import random_trace, trace_of

POLICIES = sorted(installed("hetsched.policies"))
LAPTOP = machine("rtx-4060-laptop-8gb")
QUIET = replace(LAPTOP, cpu_slowdown=1.0, h2d_slowdown=1.0)
TINY = MoEGeometry("tiny", 2, 4, 2, hidden=1024, ffn=2048, dense_params=4_000_000)
SMALL = replace(TINY, num_layers=4, num_experts=12, top_k=3)
CHARGE_S = 1e-4


def scheduler(shape: MoEGeometry, policy: Any, slots: int, charge_s: float = CHARGE_S, **options: Any) -> Scheduler:
    hardware = options.pop("hardware", LAPTOP)
    clock = ConstantClock(charge_s)
    return Scheduler(shape, hardware, slots * shape.expert_bytes, policy=policy, clock=clock, **options)


def by_hand() -> tuple[RoutingTrace, Steps]:
    """A prefill of two tokens, then three decode tokens; two layers."""
    trace = trace_of([[[0, 1], [0, 1]], [[0, 2], [0, 1]], [[1, 0], [2, 3]], [[2, 3], [0, 3]], [[0, 1], [1, 2]]], 4)
    steps = Steps(np.array([0, 2, 3, 4]), np.array([2, 3, 4, 5]), np.array([0, 1, 1, 1], np.uint8))
    return trace, steps


def test_cpu_only_by_hand() -> None:
    """Each layer: dense, decision, one round trip, its experts one after another."""
    trace, steps = by_hand()
    made = scheduler(TINY, "cpu-only", 0)
    replay, cost = simulate(trace, steps, made), made.cost
    one_s, two_s = cost.each_cpu_s((1, 2))
    first_s = 2 * (cost.dense_s(2) + CHARGE_S + cost.cpu_start_s(2)) + (two_s + 2 * one_s) + 2 * two_s
    later_s = 2 * (cost.dense_s(1) + CHARGE_S + cost.cpu_start_s(1) + 2 * one_s)
    assert replay.step_s_S == pytest.approx([first_s, later_s, later_s, later_s])
    assert replay.step_s == pytest.approx((first_s + 3 * later_s) / 4)
    assert replay.stats.total_s == pytest.approx(first_s + 3 * later_s)
    assert replay.stats.tokens_per_s == pytest.approx(1 / later_s)
    assert (replay.stats.steps, replay.stats.tokens, replay.stats.decode_tokens, replay.stats.layers) == (4, 5, 3, 8)
    assert (replay.stats.active, replay.stats.hits) == (3 + 2 + 3 * 2 * 2, 0)


def test_a_static_placement_by_hand() -> None:
    """Experts 0 and 1 of layer 0 and 3 of layer 1 are resident: hits and seconds of each step."""
    trace, steps = by_hand()
    frequency_LE = np.array([[9, 8, 0, 0], [0, 0, 0, 7]], float)
    made = scheduler(TINY, "static-frequency", 3, frequency_LE=frequency_LE)
    replay, cost = simulate(trace, steps, made), made.cost
    gpu_s, cpu_s = dict(enumerate(cost.each_gpu_s((0, 1, 2)))), dict(enumerate(cost.each_cpu_s((0, 1, 2))))
    fixed_s = {n: 2 * (cost.dense_s(n) + CHARGE_S) for n in (1, 2)}
    back_s, call_s = {n: cost.cpu_start_s(n) for n in (1, 2)}, cost.gpu_call_s()
    expected = [
        fixed_s[2] + max(call_s + gpu_s[2] + gpu_s[1], back_s[2] + cpu_s[1]) + back_s[2] + 2 * cpu_s[2],
        fixed_s[1] + max(call_s + 2 * gpu_s[1], CHARGE_S) + max(call_s + gpu_s[1], back_s[1] + cpu_s[1]),
        fixed_s[1] + back_s[1] + 2 * cpu_s[1] + max(call_s + gpu_s[1], back_s[1] + cpu_s[1]),
        fixed_s[1] + max(call_s + 2 * gpu_s[1], CHARGE_S) + back_s[1] + 2 * cpu_s[1],
    ]
    assert replay.step_s_S == pytest.approx(expected)
    assert (replay.stats.hits, replay.stats.late, replay.stats.bytes_moved) == (2 + 3 + 1 + 2, 0, 0)
    assert replay.stats.gpu_s == pytest.approx(
        sum(fixed_s[n] / 2 * k for n, k in ((2, 2), (1, 6))) - 8 * CHARGE_S + gpu_s[2] + 7 * gpu_s[1] + 5 * call_s
    )


def placed(trace: RoutingTrace, slots: int) -> set[tuple[int, int]]:
    """The most frequent experts; ties go to the lower layer, then the lower expert."""
    counts: dict[tuple[int, int], int] = {}
    for token in trace.experts_TLK.tolist():
        for layer, row in enumerate(token):
            for e in row:
                counts[layer, e] = counts.get((layer, e), 0) + 1
    return set(sorted(counts, key=lambda place: (-counts[place], place))[:slots])


@pytest.mark.parametrize("verify", [0, 3])
def test_static_frequency_recomputed(verify: int) -> None:
    """The same seconds from a few lines of plain Python that know neither scheduler nor timeline."""
    trace = random_trace(np.random.default_rng(7), 60, 4, 12, 3)
    steps, slots = steps_of(trace, verify=verify), 20
    made = scheduler(SMALL, "static-frequency", slots, history=trace)
    replay = simulate(trace, steps, made)
    cost, here, expected = CostModel(LAPTOP, SMALL), placed(trace, slots), []
    for begin, end in zip(steps.begin_S, steps.end_S, strict=True):
        step_s = 0.0
        for layer in range(4):
            chosen = trace.experts_TLK[begin:end, layer].ravel().tolist()
            gpu_s = sum(float(cost.gpu_s(chosen.count(e))) for e in {*chosen} if (layer, e) in here)
            cpu_s = sum(float(cost.cpu_s(chosen.count(e))) for e in {*chosen} if (layer, e) not in here)
            gpu_s += cost.gpu_call_s() if gpu_s else 0.0
            cpu_s += cost.cpu_start_s(end - begin) if cpu_s else 0.0
            step_s += cost.dense_s(end - begin) + CHARGE_S + max(gpu_s, cpu_s, CHARGE_S)
        expected.append(step_s)
    assert replay.step_s_S == pytest.approx(expected)
    assert replay.stats.decision_s == pytest.approx(4 * steps.count * CHARGE_S)
    assert replay.stats.overlapped_s == pytest.approx(4 * steps.count * CHARGE_S)


@pytest.mark.parametrize("policy", POLICIES)
def test_it_is_deterministic_and_adds_up(policy: str) -> None:
    """Two replays are equal to the last bit, and the sums over layers are those over steps."""
    trace = random_trace(np.random.default_rng(2), 40, 4, 12, 3)
    steps = steps_of(trace)
    first, second = (
        simulate(trace, steps, scheduler(SMALL, policy, 16, history=trace, future=trace)) for _ in range(2)
    )
    assert (first.step_s_S == second.step_s_S).all()
    assert first.stats == second.stats
    stats = first.stats
    assert stats.total_s == pytest.approx(first.step_s_S.sum())
    assert stats.tokens_per_s == pytest.approx(40 / first.step_s_S.sum())
    assert stats.active == 40 * 4 * 3
    assert stats.layers == 40 * 4


@cache
def bounds_s(slots: int, verify: int) -> tuple[RoutingTrace, float, float]:
    """A trace, and the seconds of its clairvoyant bound and its roof, all steps in one window."""
    trace = random_trace(np.random.default_rng(slots), 20, 4, 12, 3)
    steps, cost = steps_of(trace, verify=verify), CostModel(QUIET, SMALL)
    least = clairvoyant_bound(trace, steps, cost, slots, window_steps=steps.count)
    roof = all_resident_bound(trace, steps, cost, window_steps=steps.count)
    return trace, float(least.window_s.sum()), float(roof.window_s.sum())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("slots", "verify"), [(6, 0), (20, 0), (20, 3), (48, 0)])
def test_no_policy_beats_the_bounds(policy: str, slots: int, verify: int) -> None:
    """Without contention and with free decisions: roof <= clairvoyant <= policy."""
    trace, least_s, roof_s = bounds_s(slots, verify)
    made = scheduler(SMALL, policy, slots, charge_s=0.0, hardware=QUIET, history=trace, future=trace)
    achieved_s = simulate(trace, steps_of(trace, verify=verify), made).step_s_S.sum()
    assert roof_s <= least_s * (1 + 1e-9)
    assert least_s <= achieved_s * (1 + 1e-9)


def test_contention_and_decisions_only_cost() -> None:
    trace = random_trace(np.random.default_rng(3), 60, 4, 12, 3)
    times = []
    for hardware, charge_s in ((QUIET, 0.0), (LAPTOP, 0.0), (LAPTOP, CHARGE_S)):
        made = scheduler(SMALL, "on-demand-lru", 6, charge_s, hardware=hardware)
        times.append(simulate(trace, steps_of(trace), made).step_s_S.sum())
    assert times[0] <= times[1] < times[2]


class Faulty(StaticFrequency):
    """Takes a slot that nobody was given, or fetches what is there."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def prefetch(self, demand: Demand, view: View) -> tuple[Fetch, ...]:
        if self.fault == "steals a slot":
            view.residency.free_slots -= 1
        if self.fault == "fetches a resident":
            return (Fetch(view.residency.residents()[0], None, True, "x"),)
        if self.fault == "evicts an active expert":
            here = next(e for e in view.residency.residents() if e.layer == demand.layer and e.expert in demand.active)
            return (Fetch(here._replace(layer=1 - here.layer), here, True, "x"),)
        return ()


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("steals a slot", AttributeError, "free_slots"),
        ("fetches a resident", ResidencyError, "fetched while RESIDENT"),
        ("evicts an active expert", PlanError, "which is active"),
    ],
)
def test_a_policy_that_breaks_its_contract_is_caught(fault: str, error: type[Exception], message: str) -> None:
    """At the latest when the replay ends, however short it is."""
    trace, steps = by_hand()
    with pytest.raises(error, match=message):
        simulate(trace, steps, scheduler(TINY, Faulty(fault), 6))


@pytest.mark.parametrize(("layers", "experts"), [(3, 4), (2, 5)])
def test_a_trace_of_another_model_is_refused(layers: int, experts: int) -> None:
    trace = random_trace(np.random.default_rng(1), 4, layers, experts, 2)
    with pytest.raises(InputError, match=f"{layers} MoE layers of {experts} experts, tiny has 2 of 4") as caught:
        simulate(trace, steps_of(trace), scheduler(TINY, "cpu-only", 0))
    assert "\n" not in str(caught.value)


def test_progress_is_told_now_and_then() -> None:
    trace = random_trace(np.random.default_rng(1), 130, 2, 4, 2)
    told: list[tuple[int, int]] = []
    simulate(trace, steps_of(trace), scheduler(TINY, "cpu-only", 0), lambda *done: told.append(done))
    assert told == [(64, 130), (128, 130), (130, 130)]


def test_no_steps_take_no_time() -> None:
    trace, _ = by_hand()
    none = Steps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8))
    replay = simulate(trace, none, scheduler(TINY, "cpu-only", 0))
    assert isinstance(replay, Replay)
    assert replay.step_s == replay.stats.total_s == 0.0


def test_phases_reach_the_scheduler() -> None:
    """Prefill steps count as tokens, not as decoded ones."""
    trace, steps = by_hand()
    steps = replace(steps, phase_S=np.array([Phase.PREFILL, Phase.DECODE, Phase.VERIFY, Phase.DECODE], np.uint8))
    stats = simulate(trace, steps, scheduler(TINY, "cpu-only", 0)).stats
    assert (stats.tokens, stats.decode_tokens) == (5, 3)


class Plainly(Scheduler):
    """A scheduler that no compiled loop takes the place of."""


@pytest.mark.parametrize("kind", [Scheduler, Plainly])
def test_rejected_drafts_cost_time_and_bytes_and_are_no_tokens(kind: type[Scheduler]) -> None:
    """Step by step and in the compiled loop: times and bytes of all that was verified, tokens of what stayed."""
    trace = random_trace(np.random.default_rng(1), 12, 2, 4, 2)
    steps = replace(steps_of(trace, verify=2), rejected_S=np.array([1, 0, 2, 0]))

    def run(steps: Steps) -> Replay:
        given = {"policy": "on-demand-lru", "clock": ConstantClock(CHARGE_S)}
        return simulate(trace, steps, kind(TINY, LAPTOP, 3 * TINY.expert_bytes, **given))

    marked, plain = run(steps), run(replace(steps, rejected_S=None))
    assert (plain.stats.tokens, marked.stats.tokens, marked.stats.decode_tokens) == (12, 9, 9)
    assert marked.counts_SC[:, N_DECODED].tolist() == [2, 5, 6, 9]
    assert marked.stats.bytes_moved == plain.stats.bytes_moved > 0
    np.testing.assert_array_equal(marked.step_s_S, plain.step_s_S)
    assert marked.stats.tokens_per_s == pytest.approx(plain.stats.tokens_per_s * 9 / 12)


def test_drafting_takes_its_time_before_each_step() -> None:
    trace, steps = by_hand()
    draft_s_S = np.array([0.0, 1.0, 0.5, 0.0])
    plain = simulate(trace, steps, scheduler(TINY, "cpu-only", 0))
    drafted = simulate(trace, replace(steps, draft_s_S=draft_s_S), scheduler(TINY, "cpu-only", 0))
    np.testing.assert_allclose(drafted.step_s_S - plain.step_s_S, draft_s_S)
    assert drafted.stats.decode_s == pytest.approx(plain.stats.decode_s + 1.5)
