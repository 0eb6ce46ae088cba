"""Each cache's published rule on a case small enough to work out by hand, and what all of them keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.geometry import MoEGeometry
from hetsched.machine.gallery import machine
from hetsched.plugins import plugin
from hetsched.policies.belady import Belady
from hetsched.policies.gdsf import GreedyDual
from hetsched.policies.layer_stream import LayerStream
from hetsched.policies.least_stale import LeastStale
from hetsched.policies.lfru import LeastFrequentRecent
from hetsched.policies.lfu import OnDemandLfu, OnDemandLfuPerLayer
from hetsched.policies.lru import OnDemandLru, OnDemandLruPerLayer
from hetsched.policies.s3_fifo import S3Fifo
from hetsched.policies.sieve import SieveCache
from hetsched.policy import Setting
from hetsched.replay.simulator import ConstantClock, simulate
from hetsched.replay.steps import steps_of
from hetsched.scheduler import Scheduler
from hetsched.testing.policies import LAWS, SHAPE
from hetsched.traces.trace import RoutingTrace
from hetsched.types import ExpertId, Lane, Outcome, Phase, Plan
from tests.oracles.belady import belady_bypass
from tests.replay.flat_cost import random_trace, trace_of

CACHES = (
    "on-demand-lru",
    "on-demand-lru-per-layer",
    "on-demand-lfu",
    "on-demand-lfu-per-layer",
    "lfru",
    "gdsf",
    "sieve",
    "s3-fifo",
    "least-stale",
)


def shape_of(layers: int, experts: int, top_k: int = 1) -> MoEGeometry:
    return MoEGeometry("tiny", layers, experts, top_k, hidden=64, ffn=64, dense_params=1000)


class Cache:
    """A policy under a scheduler, asked layer by layer."""

    def __init__(self, policy: object, slots: int, layers: int = 1, future: RoutingTrace | None = None) -> None:
        shape = shape_of(layers, 16)
        self.made = Scheduler(
            shape, machine("rtx-4060-laptop-8gb"), slots * shape.expert_bytes, policy=policy, future=future
        )

    def plan(self, layer: int, *experts: int, tokens: int = 1) -> Plan:
        tokens_E = np.bincount(experts, minlength=16)
        plan = self.made.step(self.made.demand(layer, tokens_E, tokens, Phase.DECODE))
        self.made.observe(Outcome(plan, 0.0, plan.predicted_s))
        return plan

    def ask(self, layer: int, *experts: int) -> list[tuple[int, int]]:
        """Who had to leave, as (layer, expert)."""
        return [tuple(fetch.victim) for fetch in self.plan(layer, *experts).fetches if fetch.victim is not None]

    def victims(self, requests: Sequence[int]) -> list[int]:
        """Who leaves, for requests of single experts of one layer."""
        return [expert for request in requests for _, expert in self.ask(0, request)]


def test_lru() -> None:
    assert Cache(OnDemandLru(), 3).victims([0, 1, 2, 0, 3, 1]) == [1, 2]


def test_lru_per_layer_takes_nothing_from_other_layers() -> None:
    """Five slots for two layers: three for the first, two for the second."""
    asked = Cache(OnDemandLruPerLayer(), 5, layers=2)
    assert asked.ask(0, 0, 1, 2) == asked.ask(1, 4, 5) == []
    assert asked.ask(0, 3) == [(0, 0)]
    assert asked.ask(1, 6) == [(1, 4)]
    assert Cache(OnDemandLru(per_layer=True), 2, layers=2).ask(0, 0, 1) == []


def test_lfu_counts_outlive_eviction_and_ties_go_by_age() -> None:
    assert Cache(OnDemandLfu(), 2).victims([0, 0, 1, 2, 1, 2]) == [1, 2, 0]


def test_lfu_forgets_with_decay() -> None:
    """Three old uses weigh 0.22 when two newer ones weigh 0.75."""
    requests = [0, 0, 0, 1, 1, 2]
    assert Cache(OnDemandLfu(), 2).victims(requests) == [1]
    assert Cache(OnDemandLfu(decay=0.5), 2).victims(requests) == [0]
    with pytest.raises(InputError, match="decay is 0"):
        OnDemandLfu(decay=0)


def test_lfu_per_layer() -> None:
    asked = Cache(OnDemandLfuPerLayer(), 4, layers=2)
    asked.ask(0, 0, 1)
    asked.ask(1, 5)
    asked.ask(0, 0)
    assert asked.ask(0, 2) == [(0, 1)]


def test_gdsf_clock_rises_until_old_frequency_is_worth_nothing() -> None:
    """Priorities: 0 has 3; 1 enters at 1 and leaves, 2 at 1 + 1 and leaves, 3 at 2 + 1; 0 is older than 3; 4 at 4."""
    assert Cache(GreedyDual(), 2).victims([0, 0, 0, 1, 2, 3, 4, 5]) == [1, 2, 0, 3]


def test_sieve_hand_clears_bits_and_goes_on_from_where_it_stopped() -> None:
    """0 is spared twice for its bit; the hand wraps from the newest, 5, to the oldest, 0."""
    assert Cache(SieveCache(), 3).victims([0, 1, 2, 0, 3, 0, 4, 5, 4, 6, 7]) == [1, 2, 3, 5, 4]


def test_s3_fifo_small_queue_sorts_out() -> None:
    """2 was used twice and goes to the main queue; 3, used once, is sorted out like 0 and 1."""
    requests = [*range(10), 10, 0, 2, 2, 3, 11, 12]
    assert Cache(S3Fifo(), 10).victims(requests) == [0, 1, 3, 4]


def test_s3_fifo_remembers_and_gives_the_used_a_second_round() -> None:
    """Of the main queue 0 was used and stays, 2, just promoted, was not."""
    assert Cache(S3Fifo(), 2).victims([0, 1, 0, 0, 2, 2, 2, 0, 4]) == [1, 2]
    remembered = Cache(S3Fifo(), 10)
    remembered.victims([*range(10), 10, 0])  # 0 was sorted out, is remembered, and enters the main queue
    assert remembered.victims([11, 12, 13, 14, 15, 1, 2, 3, 4, 5]) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def test_lfru_protects_the_recent_and_counts_the_rest() -> None:
    """Of 0 (three uses), 2 (two) and the privileged 1 and 4, 2 leaves; LRU would take 0, LFU the new 4."""
    requests = [0, 1, 2, 3, 0, 0, 3, 2, 1, 4, 5]
    assert Cache(LeastFrequentRecent(), 4).victims(requests) == [3, 2]
    assert Cache(OnDemandLru(), 4).victims(requests) == [0, 3]
    assert Cache(OnDemandLfu(), 4).victims(requests) == [3, 4]


def test_lfru_forgets_counts_with_their_window() -> None:
    requests = [0, 0, 0, 1, 2]
    assert Cache(LeastFrequentRecent(privileged=0.0), 2).victims(requests) == [1]
    assert Cache(LeastFrequentRecent(privileged=0.0, window=3), 2).victims(requests) == [0]
    with pytest.raises(InputError, match="window 0"):
        LeastFrequentRecent(window=0)


def test_least_stale_takes_what_this_pass_has_not_touched_first() -> None:
    asked = Cache(LeastStale(), 4, layers=2)
    asked.ask(0, 0, 1)
    asked.ask(1, 0, 1)
    asked.ask(0, 0)
    assert asked.ask(1, 2) == [(0, 1)]  # (0, 0) is as old a fetch, but touched
    assert asked.ask(0, 1) == [(0, 0)]  # a new pass: nothing is touched, the oldest fetch leaves
    assert asked.ask(1, 0) == []
    assert asked.ask(0, 5) == [(1, 0)]


def test_least_stale_is_fifo_when_nothing_is_stale() -> None:
    asked = Cache(LeastStale(), 2, layers=3)
    assert asked.ask(0, 0) == asked.ask(1, 0) == []
    assert asked.ask(2, 0) == [(0, 0)]


def test_layer_stream_keeps_nothing() -> None:
    asked = Cache(LayerStream(), 3, layers=2)
    for layer in (0, 1, 0, 1):
        plan = asked.plan(layer, 0, 1)
        assert [fetch.expert for fetch in plan.fetches] == [ExpertId(layer, 0), ExpertId(layer, 1)]
        assert asked.made.residency.residents() == [ExpertId(layer, 0), ExpertId(layer, 1)]
    assert [run.lane for run in asked.plan(0, 2, 3, 4, 5).runs].count(Lane.CPU) == 1
    assert asked.made.stats.hits == 0


@pytest.mark.parametrize("name", CACHES)
def test_a_layer_that_asks_for_too_much_runs_the_rest_on_the_cpu(name: str) -> None:
    asked = Cache(name, 4, layers=2)
    room = 2 if name.endswith("per-layer") else 4
    asked.plan(0, 0)
    plan = asked.plan(0, 0, 1, 2, 3, 4, 5)
    assert len(plan.fetches) == room - 1
    assert sum(run.lane is Lane.CPU for run in plan.runs) == 6 - room


@pytest.mark.parametrize("name", CACHES)
def test_a_copy_that_failed_is_forgotten(name: str) -> None:
    """Whatever is dropped, the cache goes on with what is there, and uses every slot again."""
    asked, random = Cache(name, 6, layers=2), np.random.default_rng(0)
    for visit in range(300):
        experts = random.choice(16, 2, replace=False)
        tokens_E = np.bincount(experts, minlength=16)
        plan = asked.made.step(asked.made.demand(visit % 2, tokens_E, 1, Phase.DECODE))
        if random.random() < 0.2:
            asked.made.drop_copies()
        else:
            asked.made.observe(Outcome(plan, 0.0, plan.predicted_s))
        asked.made.residency.check()
    for visit in range(8):
        asked.plan(visit % 2, 2 * visit % 16, (2 * visit + 1) % 16)
    assert asked.made.residency.free_slots == 0


class Foretold(Belady):
    """Belady with a future of its own where nobody gives one; that it is a wrong one must break no law."""

    def start(self, machine: Setting) -> Sequence[ExpertId]:
        random = np.random.default_rng(1)
        return super().start(replace(machine, future=random_trace(random, 40, SHAPE.num_layers, SHAPE.num_experts, 3)))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", [*CACHES, "layer-stream", "belady", "cpu-only", "layer-split", "static-frequency"])
def test_laws(law, name: str) -> None:
    law(Foretold if name == "belady" else plugin("hetsched.policies", name))


def hits_of(policy: str, trace: RoutingTrace, slots: int) -> int:
    shape = shape_of(trace.num_layers, trace.num_experts, trace.top_k)
    made = Scheduler(
        shape,
        machine("rtx-4060-laptop-8gb"),
        slots * shape.expert_bytes,
        policy=policy,
        future=trace,
        clock=ConstantClock(0.0),
    )
    return simulate(trace, steps_of(trace, mode="decode"), made).stats.hits


def test_belady_bypasses_what_comes_back_later() -> None:
    """One slot: 0 comes back before every other, so it stays; what never comes back is not fetched at all."""
    requests = [0, 1, 0, 2, 0, 3, 0]
    trace = trace_of([[[e]] for e in requests], 16)
    assert hits_of("belady", trace, 1) == 3
    asked = Cache(Belady(), 1, future=trace)
    assert [[fetch.expert.expert for fetch in asked.plan(0, e).fetches] for e in requests] == [[0], *[[]] * 6]


def test_belady_counts_in_visits_of_steps_not_of_tokens() -> None:
    """Two steps of two tokens: in the second, layer 0 asks for 1 before layer 1 for 2, though its token is later."""
    trace = trace_of([[[1], [2]], [[1], [2]], [[4], [2]], [[1], [4]]], 16)
    grouped = replace(trace, step_T=np.array([0, 0, 1, 1], np.int32))
    for future, fetched in ((grouped, []), (trace, [ExpertId(1, 2)])):
        asked = Cache(Belady(), 1, layers=2, future=future)
        assert [fetch.expert for fetch in asked.plan(0, 1, 1, tokens=2).fetches] == [ExpertId(0, 1)]
        assert [fetch.expert for fetch in asked.plan(1, 2, 2, tokens=2).fetches] == fetched


@pytest.mark.parametrize("seed", range(10))
def test_belady_reaches_the_bound_where_one_expert_is_asked_for_at_a_time(seed: int) -> None:
    random = np.random.default_rng(seed)
    trace, slots = random_trace(random, 60, 2, 6, 1), int(random.integers(1, 8))
    requests_R = (trace.experts_TLK.astype(np.int64) + 6 * np.arange(2)[:, None]).reshape(-1)
    assert hits_of("belady", trace, slots) == belady_bypass(requests_R, slots)


def best_hits(visits: list[frozenset[int]], slots: int) -> int:
    """Most hits over everything that a cache may keep: what a visit asks for and finds stays until the next one."""

    @cache
    def hits(now: int, held: frozenset[int]) -> int:
        if now == len(visits):
            return 0
        active = visits[now]
        stays, optional = held & active, sorted((held | active) - (held & active))
        sizes = range(max(0, slots - len(stays)) + 1)
        after = [stays | set(extra) for size in sizes for extra in combinations(optional, size)]
        return len(stays) + max(hits(now + 1, kept) for kept in after)

    return hits(0, frozenset())


@pytest.mark.parametrize("seed", range(12))
def test_belady_is_at_most_one_hit_from_the_best_of_all_caches(seed: int) -> None:
    """With several experts a layer, whose own hits may not leave, keeping the soonest is not quite the best."""
    random = np.random.default_rng(seed)
    trace, slots = random_trace(random, 5, 2, 4, 2), int(random.integers(1, 6))
    visits = [
        frozenset((4 * layer + row).tolist())
        for token in trace.experts_TLK.astype(int)
        for layer, row in enumerate(token)
    ]
    best = best_hits(visits, slots)
    assert best - 1 <= hits_of("belady", trace, slots) <= best


@pytest.mark.parametrize("slots", [2, 7, 20])
def test_belady_hits_as_often_as_any(slots: int) -> None:
    trace = random_trace(np.random.default_rng(slots), 150, 3, 12, 3)
    best = hits_of("belady", trace, slots)
    assert best >= max(hits_of(name, trace, slots) for name in CACHES)
    requests_R = (trace.experts_TLK.astype(np.int64) + 12 * np.arange(3)[:, None]).reshape(-1)
    assert best <= belady_bypass(requests_R, slots)


def test_belady_needs_a_future_of_the_same_model() -> None:
    with pytest.raises(InputError, match="needs to know the future"):
        Cache(Belady(), 2)
    with pytest.raises(InputError, match="not of tiny"):
        Cache(Belady(), 2, future=trace_of([[[0], [1]]], 16))
