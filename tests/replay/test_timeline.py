"""Timeline against closed forms: without contention, with it, and copies that go on from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetsched.dispatch.problem import Device, DispatchProblem, frozen
from hetsched.replay.timeline import Timeline
from hetsched.types import Demand, ExpertId, Fetch, Lane, Outcome, Phase, Plan, Run
from tests.oracles.makespan import johnson_order, lanes


@dataclass(frozen=True)
class Setting:
    """Costs in round numbers: an expert on n tokens takes n * gpu or n * cpu, a copy has `chunks` parts."""

    gpu: float = 1.0
    cpu: float = 1.0
    copy: float = 8.0
    chunks: int = 4
    roundtrip: float = 0.0
    cpu_slowdown: float = 1.0
    link_slowdown: float = 1.0
    gpu_call: float = 0.0
    has_gpu = True

    @property
    def profile(self) -> Any:
        link = SimpleNamespace(chunk_bytes=10)
        return SimpleNamespace(cpu_slowdown=self.cpu_slowdown, h2d_slowdown=self.link_slowdown, h2d=link)

    @property
    def geometry(self) -> Any:
        return SimpleNamespace(expert_bytes=10 * self.chunks - 3)

    def copy_s(self) -> float:
        return self.copy

    def cpu_start_s(self, num_tokens: int) -> float:
        return self.roundtrip

    def gpu_call_s(self) -> float:
        return self.gpu_call

    def cpu_call_s(self) -> float:
        return 0.0

    def each_gpu_s(self, tokens: Sequence[int]) -> list[float]:
        return [self.gpu * n for n in tokens]

    def each_cpu_s(self, tokens: Sequence[int]) -> list[float]:
        return [self.cpu * n for n in tokens]


def plan_of(here: Sequence[int] = (), fetched: Sequence[int] = (), away: Sequence[int] = (), layer: int = 0) -> Plan:
    """A plan with these token counts: on the GPU already (or in flight), fetched first, on the CPU."""
    runs, fetches = [], []
    for tokens in here:
        runs.append(Run(ExpertId(layer, len(runs)), tokens, Lane.GPU, "here"))
    for tokens in fetched:
        fetches.append(Fetch(ExpertId(layer, len(runs)), None, False, "missed"))
        runs.append(Run(ExpertId(layer, len(runs)), tokens, Lane.GPU, "fetched"))
    for tokens in away:
        runs.append(Run(ExpertId(layer, len(runs)), tokens, Lane.CPU, "missed"))
    tokens_N = [run.num_tokens for run in runs]
    demand = Demand.listed(0, layer, Phase.DECODE, list(range(len(runs))), tokens_N, max(tokens_N, default=1), 99)
    return Plan(demand, tuple(runs), tuple(fetches))


def prefetch_of(*experts: int, layer: int = 9) -> list[Fetch]:
    return [Fetch(ExpertId(layer, e), None, True, "soon") for e in experts]


def run_layer(timeline: Timeline, plan: Plan, prefetches: Sequence[Fetch] = (), after_s: float = 0.0) -> Outcome:
    timeline.begin(plan)
    timeline.prefetch(prefetches, after_s)
    return timeline.end(0.0)


counts = st.lists(st.integers(1, 30), max_size=4)
rates = st.floats(0.05, 3.0)
slowdowns = st.floats(1.0, 3.0)
machines = st.builds(
    Setting,
    rates,
    rates,
    st.floats(0.1, 20.0),
    st.integers(1, 5),
    st.floats(0.0, 5.0),
    gpu_call=st.just(0.0) | st.floats(0.0, 30.0),
)


@settings(max_examples=150)
@given(machines, counts, counts, counts, slowdowns, slowdowns)
def test_a_layer_is_the_closed_form(machine, here, fetched, away, cpu_slowdown, link_slowdown) -> None:
    """All three lanes, with contention, against the closed form; without it against the dispatch problem too."""
    for slow in (False, True):
        cpu_slow, link_slow = (cpu_slowdown, link_slowdown) if slow else (1.0, 1.0)
        cost = replace(machine, cpu_slowdown=cpu_slow, link_slowdown=link_slow)
        gpu_F, copy_F = np.array(fetched) * machine.gpu, np.full(len(fetched), machine.copy)
        ordered = [fetched[i] for i in johnson_order(copy_F, gpu_F)]
        outcome = run_layer(Timeline(cost), plan_of(here, ordered, away))
        numbers = (sum(cost.each_gpu_s(here)), gpu_F, copy_F, sum(cost.each_cpu_s(away)), cost.roundtrip)
        expected = lanes(*numbers, 0.0, cpu_slow, link_slow, machine.gpu_call)
        assert outcome.makespan_s == pytest.approx(expected.makespan_s, rel=1e-9, abs=1e-9)
        call_s = machine.gpu_call if here or fetched else 0.0
        assert outcome.gpu_s == pytest.approx(call_s + sum(cost.each_gpu_s([*here, *fetched])))
        assert outcome.link_s == pytest.approx(expected.link_end_s)
        assert outcome.stall_s <= max(0.0, expected.gpu_end_s - outcome.gpu_s) + 1e-9
    assert outcome.makespan_s >= problem_of(machine, here, fetched, away) - 1e-9
    quiet = run_layer(Timeline(machine), plan_of(here, ordered, away))
    assert quiet.makespan_s == pytest.approx(problem_of(machine, here, fetched, away))


def problem_of(machine: Setting, here: list[int], fetched: list[int], away: list[int]) -> float:
    """The makespan that the dispatch problem gives this choice."""
    tokens = np.array([*here, *fetched, *away], float)
    size, copies = len(tokens), len(fetched)
    ready = np.where(np.arange(size) < len(here), 0.0, np.inf)
    columns = [tokens * machine.gpu, tokens * machine.cpu, np.full(size, machine.copy), ready, np.zeros(size)]
    problem = DispatchProblem(
        *(frozen(column) for column in columns),
        frozen(np.zeros(copies)),
        roundtrip_s=machine.roundtrip,
        gpu_call_s=machine.gpu_call,
    )
    choice = [Device.GPU] * len(here) + [Device.FETCH] * copies + [Device.CPU] * len(away)
    return problem.makespan_s(np.array(choice, np.int8))


def test_a_demanded_copy_waits_for_the_chunk_under_way_only() -> None:
    """Chunks of 2: a prefetch that has run for 3 ends its second chunk at 4; the demanded copy has 1 to 9."""
    timeline = Timeline(Setting())
    run_layer(timeline, plan_of(here=[3]), prefetch_of(0))
    assert timeline.link_state().free_s == pytest.approx(1.0)
    outcome = run_layer(timeline, plan_of(fetched=[1]))
    assert outcome.makespan_s == pytest.approx(1.0 + 8.0 + 1.0)
    assert outcome.stall_s == pytest.approx(9.0)
    assert outcome.link_s == pytest.approx(10.0)  # while the expert computes, the prefetch goes on
    ((expert, left_s),) = timeline.link_state().in_flight
    assert (expert, left_s) == (ExpertId(9, 0), pytest.approx(8.0 - 3.0 - 1.0 - 1.0))


def test_at_a_chunks_end_the_link_is_free_at_once() -> None:
    timeline = Timeline(Setting())
    run_layer(timeline, plan_of(here=[4]), prefetch_of(0))
    assert timeline.link_state().free_s == 0.0
    assert run_layer(timeline, plan_of(fetched=[1])).makespan_s == pytest.approx(9.0)


def test_after_the_plan_a_chunk_under_way_still_comes_first() -> None:
    """What is reported for prefetching is what then happens: chunk to 1, demanded copy to 9, the rest to 13."""
    timeline = Timeline(Setting())
    run_layer(timeline, plan_of(here=[3]), prefetch_of(0))
    timeline.begin(plan_of(fetched=[1]))
    state = timeline.link_state()
    assert state.free_s == pytest.approx(9.0)
    assert dict(state.in_flight) == {ExpertId(0, 0): pytest.approx(9.0), ExpertId(9, 0): pytest.approx(13.0)}


def test_a_prefetch_whose_expert_is_demanded_is_promoted() -> None:
    """Three prefetches of 8 are queued; the third is demanded at 3: the first ends its chunk, then the third runs."""
    timeline = Timeline(Setting())
    run_layer(timeline, plan_of(here=[3]), [*prefetch_of(7, 8), *prefetch_of(0, layer=1)])
    outcome = run_layer(timeline, plan_of(here=[1], layer=1))
    assert outcome.makespan_s == pytest.approx(1.0 + 8.0 + 1.0)
    state = timeline.link_state()
    assert state.arrived == (ExpertId(1, 0),)
    assert state.in_flight == ((ExpertId(9, 7), pytest.approx(3.0)), (ExpertId(9, 8), pytest.approx(11.0)))


def test_promoting_the_copy_under_way_lets_it_end() -> None:
    """It goes on before copies demanded with it: 5 are left of the first, the second takes 8."""
    timeline = Timeline(Setting())
    run_layer(timeline, plan_of(here=[3]), prefetch_of(0, layer=1))
    outcome = run_layer(timeline, plan_of(here=[1], fetched=[1], layer=1))
    assert outcome.makespan_s == pytest.approx(5.0 + 8.0 + 1.0)
    assert outcome.stall_s == pytest.approx(5.0 + (13.0 - 6.0))


def test_a_prefetch_begins_when_it_is_submitted() -> None:
    """Chosen for 2 s beside a CPU lane of 6: the CPU is slowed from 2 on, the copy does 2 of its 8."""
    timeline = Timeline(Setting(cpu_slowdown=2.0, link_slowdown=4.0))
    outcome = run_layer(timeline, plan_of(away=[6]), prefetch_of(0), after_s=2.0)
    assert outcome.makespan_s == pytest.approx(2.0 + 4.0 * 2.0)
    assert outcome.link_s == pytest.approx(8.0)
    assert timeline.link_state().in_flight[0][1] == pytest.approx(8.0 - 8.0 / 4.0)


def test_a_host_that_outlasts_the_lanes_lengthens_the_layer() -> None:
    timeline = Timeline(Setting())
    assert run_layer(timeline, plan_of(here=[1]), prefetch_of(0), after_s=5.0).makespan_s == pytest.approx(5.0)
    assert timeline.link_state().in_flight == ((ExpertId(9, 0), pytest.approx(8.0)),)
    assert timeline.now_s == pytest.approx(5.0)
    assert run_layer(timeline, plan_of(here=[1]), after_s=0.0).makespan_s == pytest.approx(1.0)


def test_an_idle_layer_costs_nothing_but_its_lanes() -> None:
    timeline = Timeline(Setting(roundtrip=3.0))
    timeline.pass_s(2.0)
    outcome = run_layer(timeline, plan_of(here=[2, 3], away=[4]))
    assert outcome == Outcome(outcome.plan, 0.0, pytest.approx(7.0), pytest.approx(5.0), pytest.approx(7.0), 0.0, 0.0)
    assert timeline.now_s == pytest.approx(9.0)
    assert timeline.link_state().in_flight == ()


layers = st.lists(
    st.tuples(counts, counts, counts, st.integers(0, 2), st.floats(0.0, 5.0), st.floats(0.0, 5.0)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=100)
@given(machines, layers, st.sampled_from([(1.0, 1.0), (1.5, 2.5)]))
def test_nothing_is_lost_over_many_layers(machine, sequence, slow) -> None:
    """Every copy arrives once; the link is busy for what it copied; what is predicted comes true when left alone."""
    cost = replace(machine, cpu_slowdown=slow[0], link_slowdown=slow[1])
    timeline, arrived, busy_s, copies, total_s = Timeline(cost), [], 0.0, 0, 0.0
    for l, (here, fetched, away, prefetches, after_s, dense_s) in enumerate(sequence):
        timeline.pass_s(dense_s)
        arrived += timeline.link_state().arrived
        fetches = prefetch_of(*range(50, 50 + prefetches), layer=l)
        plan = plan_of(here, fetched, away, layer=l)
        outcome = run_layer(timeline, plan, fetches, after_s)
        copies += len(fetched) + len(fetches)
        busy_s += outcome.link_s
        total_s += dense_s + outcome.makespan_s
        cpu_s = sum(cost.each_cpu_s(away)) + bool(away) * cost.roundtrip
        assert outcome.makespan_s >= max(after_s, outcome.gpu_s, cpu_s) - 1e-9
    assert timeline.now_s == pytest.approx(total_s)
    state = timeline.link_state()
    left_s = max((left for _, left in state.in_flight), default=0.0)
    timeline.pass_s(left_s + 1e-9)
    arrived += [*state.arrived, *timeline.link_state().arrived]
    assert len(arrived) == len(set(arrived)) == copies
    busy_s += run_layer(timeline, plan_of(), ()).link_s
    if slow == (1.0, 1.0):
        assert busy_s == pytest.approx(copies * cost.copy, abs=1e-9)
    assert copies * cost.copy - 1e-9 <= busy_s <= copies * cost.copy * slow[1] + 1e-9


@settings(max_examples=60)
@given(machines, st.integers(1, 30), st.integers(1, 4))
def test_predicted_arrivals_come_true(machine, moved, prefetches) -> None:
    """Each copy arrives after exactly the seconds reported, neither sooner nor later."""
    timeline = Timeline(machine)
    run_layer(timeline, plan_of(here=[moved]), prefetch_of(*range(prefetches)))
    waited_s = 0.0
    for expert, left_s in timeline.link_state().in_flight:
        short_s = (left_s - waited_s) * 0.999
        timeline.pass_s(short_s)
        assert timeline.link_state().arrived == ()
        timeline.pass_s(left_s - waited_s - short_s + 1e-12)
        waited_s = left_s + 1e-12
        assert timeline.link_state().arrived == (expert,)


@settings(max_examples=60)
@given(machines, st.integers(1, 40), st.integers(1, 3), st.integers(1, 20))
def test_the_free_time_reported_comes_true(machine, moved, prefetches, tokens) -> None:
    """A copy demanded at once starts after free_s: the layer is free_s, one copy and one computation."""
    timeline = Timeline(machine)
    run_layer(timeline, plan_of(here=[moved]), prefetch_of(*range(prefetches)))
    free_s = timeline.link_state().free_s
    assert free_s <= machine.copy / machine.chunks + 1e-12
    outcome = run_layer(timeline, plan_of(fetched=[tokens]))
    assert outcome.makespan_s == pytest.approx(max(machine.gpu_call, free_s + machine.copy) + tokens * machine.gpu)
