"""Peers' strategies: each paper's rule on a case worked out by hand, and a short replay."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hetsched.cost.model import CostModel
from hetsched.deciders.methods import give_methods
from hetsched.forecast.activation_matrices import ActivationMatrices
from hetsched.forecast.transition import Transition
from hetsched.geometry import MoEGeometry
from hetsched.machine.gallery import machine
from hetsched.plugins import plugin
from hetsched.policies.compiled import PolicyKernels
from hetsched.policies.dali import Dali
from hetsched.policies.fiddler import Fiddler
from hetsched.policies.freetoken import FreeToken
from hetsched.policies.hybrimoe import HybriMoe
from hetsched.policies.learning import learning_of
from hetsched.policies.moe_infinity import MoeInfinity
from hetsched.policies.moe_spac import MoeSpac, MoeSpacFixed
from hetsched.policies.static import evenly
from hetsched.policy import Setting, View
from hetsched.replay.simulator import ConstantClock, Replay, simulate
from hetsched.replay.steps import steps_of
from hetsched.residency import Arrive, Residency, State
from hetsched.scheduler import Scheduler
from hetsched.traces.trace import RoutingTrace
from hetsched.types import Demand, ExpertId, Fetch, FloatArray, Lane, LinkState, Phase
from tests.oracles.rule_dispatch import RuleDispatch
from tests.replay.flat_cost import FlatCost, random_trace, trace_of

SHAPE = MoEGeometry("peers", num_layers=3, num_experts=6, top_k=2, hidden=1024, ffn=2048, dense_params=4_000_000)
PEERS = ("fiddler", "hybrimoe", "dali", "freetoken", "moe-infinity", "moe-spac", "moe-spac-fixed")


@dataclass(frozen=True)
class RoundCost(FlatCost):
    """1 s on the GPU, 4 s a token on the CPU, whatever else is said of copies."""

    has_gpu: bool = True
    cpu_grows: bool = True
    version: int = 0
    geometry: MoEGeometry = SHAPE

    @property
    def profile(self) -> Any:
        """Lanes that do not slow each other down, and a link without chunks."""
        return SimpleNamespace(cpu_slowdown=1.0, h2d_slowdown=1.0, h2d=SimpleNamespace(chunk_bytes=1 << 40))

    def gpu_s(self, n: npt.NDArray[np.int64]) -> FloatArray:
        return np.where(n > 0, self.gpu, 0.0)

    def cpu_s(self, n: npt.NDArray[np.int64]) -> FloatArray:
        return self.cpu * n


class Bench:
    """A policy, its residency, and a link that delivers at once."""

    def __init__(
        self, policy: Any, slots: int, cost: Any, *, resident: list[tuple[int, int]] | None = None, **known: Any
    ):
        self.policy = policy
        self.residency = Residency(SHAPE.num_layers, SHAPE.num_experts, slots)
        setting = Setting(SHAPE, cost, slots, plugin("hetsched.solvers", "all-cpu")(), **known)
        initial = policy.start(setting)
        give_methods(policy, setting)
        self.residency.fill(initial if resident is None else [ExpertId(*expert) for expert in resident])
        self.step = -1

    def ask(
        self,
        layer: int,
        tokens: Mapping[int, int],
        num_tokens: int = 1,
        phase: Phase = Phase.DECODE,
        new_request: bool = False,
    ) -> tuple[set[int], dict[int, tuple[int, int] | None]]:
        """One layer without prefetches: experts run on the GPU, and victims by what was fetched."""
        tokens_E = np.zeros(SHAPE.num_experts, np.int64)
        tokens_E[list(tokens)] = list(tokens.values())
        self.step += layer == 0
        self.demand = Demand(self.step, layer, phase, tokens_E, num_tokens, None, new_request)
        decision = self.policy.plan(self.demand, View(self.residency, LinkState()))
        self._deliver(decision.fetches)
        self.policy.observe(self.demand)
        on_gpu = {run.expert.expert for run in decision.runs if run.lane is Lane.GPU}
        return on_gpu, {f.expert.expert: None if f.victim is None else tuple(f.victim) for f in decision.fetches}

    def prefetch(self) -> list[tuple[ExpertId, ExpertId | None]]:
        """What is prefetched now, with its victims."""
        fetches = self.policy.prefetch(self.demand, View(self.residency, LinkState()))
        self._deliver(fetches)
        return [(fetch.expert, fetch.victim) for fetch in fetches]

    def _deliver(self, fetches: Any) -> None:
        for fetch in fetches:
            assert isinstance(fetch, Fetch)
            self.residency.apply(fetch)
            self.residency.apply(Arrive(fetch.expert))


def frequencies(*ranked: tuple[int, int]) -> FloatArray:
    """Calibration counts: the experts named, in descending order, before all others."""
    frequency_LE = np.zeros((SHAPE.num_layers, SHAPE.num_experts))
    for i, expert in enumerate(ranked):
        frequency_LE[expert] = 10.0 * (len(ranked) - i)
    return frequency_LE


def test_fiddler_takes_the_shorter_of_cpu_and_copy() -> None:
    """c(n) = 4n against copy + g = 11: two tokens stay on the CPU, three are copied, in the tail of the placement."""
    frequency_LE = frequencies((0, 0), (1, 0), (2, 0))
    bench = Bench(Fiddler(), 3, RoundCost(copy=10.0), frequency_LE=frequency_LE)
    assert bench.ask(0, {0: 1, 1: 2, 2: 3}, 3) == ({0, 2}, {2: (2, 0)})
    assert bench.ask(1, {4: 3}, 3) == ({4}, {4: (0, 2)})  # the copy of a rarer expert leaves, not the placement
    assert bench.residency.residents() == [ExpertId(0, 0), ExpertId(1, 0), ExpertId(1, 4)]
    assert bench.prefetch() == []


def test_freetoken_fetches_by_bandwidth_what_was_active_last() -> None:
    """copy = cpu for one token: half of four misses are fetched, the recent ones; the least recently used leave."""
    bench = Bench(FreeToken(), 4, RoundCost(copy=4.0), resident=[(2, 0), (2, 1), (2, 2), (2, 3)])
    bench.ask(2, {0: 1})
    bench.ask(2, {3: 1})
    bench.policy._used_LE[0, [1, 4]] = 1_000.0, 999.0
    on_gpu, fetched = bench.ask(0, {0: 1, 1: 1, 4: 1, 5: 1})
    assert on_gpu == {1, 4}
    assert set(fetched) == {1, 4}
    assert set(fetched.values()) == {(2, 1), (2, 2)}
    assert bench.ask(1, {0: 1})[1] == {}  # half of one miss rounds to none


def test_freetoken_share_follows_the_link() -> None:
    """copy = 3 cpu: a quarter of four misses."""
    bench = Bench(FreeToken(), 6, RoundCost(copy=12.0), resident=[(2, e) for e in range(6)])
    assert len(bench.ask(0, {0: 1, 1: 1, 2: 1, 3: 1})[1]) == 1


def test_hybrimoe_score_is_a_moving_mean_of_the_top_scores() -> None:
    policy = HybriMoe(alpha=0.5)
    bench = Bench(policy, 2, RoundCost(copy=10.0), frequency_LE=np.ones((3, 6)))
    before = policy._score_LE[0].copy()  # 2 of 6 in all layers alike
    assert before == pytest.approx(np.full(6, 1 / 3))
    weights_E = np.array([0.7, 0.0, 0.3, 0.0, 0.0, 0.0])
    demand = Demand(0, 0, Phase.DECODE, np.array([1, 0, 1, 0, 0, 0]), 1, weights_E)
    policy.observe(demand)
    assert policy._score_LE[0] == pytest.approx(0.5 * before + 0.5 * weights_E)
    bench.ask(1, {0: 5, 1: 4, 2: 3, 3: 2, 4: 1}, num_tokens=8)  # without weights counts; top 2 * top_k = 4 of them
    assert policy._score_LE[1] == pytest.approx(0.5 * before + 0.5 * np.array([5, 4, 3, 2, 0, 0]) / 8)


def test_hybrimoe_prefetches_where_the_schedule_gains_most() -> None:
    """Two misses in layer 2 cost 8 s, one on the GPU leaves 4: gain 4. One in layer 1 (4 s, then 2 s): gain 2."""
    policy = HybriMoe()
    resident = [(0, 0), (1, 2), (2, 5)]
    bench = Bench(policy, 3, RoundCost(copy=10.0, cpu_grows=False), resident=resident)
    bench.ask(0, {0: 1, 1: 1})
    next_LE = np.zeros((3, 6))
    next_LE[1, [2, 3]] = 0.9, 0.8
    next_LE[2, [0, 1]] = 0.5, 0.6
    policy._learning.next_LE[:] = next_LE
    assert bench.prefetch() == [(ExpertId(2, 1), ExpertId(2, 5))]  # (0, 0) is active and (1, 2) expected
    assert bench.prefetch() == []  # the remaining candidates gain, but nobody is left to give way


def test_hybrimoe_evicts_the_lowest_score() -> None:
    policy = HybriMoe()
    bench = Bench(policy, 3, RoundCost(copy=2.0), resident=[(1, 0), (1, 1), (1, 2)])
    policy._score_LE[1, :3] = 0.3, 0.1, 0.2
    assert bench.ask(0, {0: 3}, num_tokens=3) == ({0}, {0: (1, 1)})


def test_dali_assigns_greedily_within_the_layer() -> None:
    """CPU 4n, GPU 1, copy 3. n = 3: 4 < 12 fetched; n = 2: 7 < 8 fetched; n = 1: 10 > 4 on the CPU."""
    bench = Bench(Dali(), 6, RoundCost(copy=3.0), resident=[(0, 3), (0, 4), (0, 5), (1, 0), (1, 1), (2, 0)])
    bench.policy._busy_LE[:] = 0.0
    bench.policy._busy_LE[0, [3, 4, 5]] = 7.0, 9.0, 8.0
    assert bench.ask(0, {0: 3, 1: 2, 2: 1}, num_tokens=3) == ({0, 1}, {0: (0, 3), 1: (0, 5)})
    on_gpu, fetched = bench.ask(2, {1: 3, 2: 3}, num_tokens=3)
    assert fetched == {1: (2, 0)}  # one expert of its own layer can leave, the other layers' stay
    assert on_gpu == {1}


def test_dali_replaces_after_a_window() -> None:
    """After two steps the busiest absent expert of the layer takes the place of its least busy one."""
    bench = Bench(Dali(window=2, prefetched=0), 4, RoundCost(copy=100.0), resident=[(0, 4), (0, 5), (1, 0), (2, 0)])
    bench.ask(0, {2: 1, 4: 1})
    assert bench.prefetch() == []  # the window is not over
    bench.ask(0, {2: 1, 3: 1})
    assert bench.prefetch() == [(ExpertId(0, 2), ExpertId(0, 5))]  # 2 tokens against 0; (0, 4) had 1
    assert bench.prefetch() == []
    bench.ask(0, {1: 1, 2: 1})
    bench.ask(0, {1: 1, 2: 1})
    assert bench.prefetch() == [(ExpertId(0, 1), ExpertId(0, 4))]
    bench.ask(0, {1: 1, 2: 1})
    bench.ask(0, {1: 1, 3: 1})
    assert bench.prefetch() == []  # no busier than the least busy one


def test_dali_prefetches_the_next_layers_likeliest() -> None:
    policy = Dali(prefetched=1)
    bench = Bench(policy, 4, RoundCost(copy=100.0), resident=[(0, 0), (1, 0), (1, 1), (1, 5)])
    policy._busy_LE[1] = [5, 1, 0, 0, 0, 2]
    bench.ask(0, {0: 1})
    next_LE = np.zeros((3, 6))
    next_LE[1, [3, 1]] = 0.9, 0.8
    policy._learning.next_LE[:] = next_LE
    assert bench.prefetch() == [(ExpertId(1, 3), ExpertId(1, 5))]  # the least busy, (1, 1), is likely itself


def test_dali_starts_with_equal_shares() -> None:
    frequency_LE = frequencies((0, 4), (0, 3), (0, 2), (1, 5), (2, 1))
    found = evenly(Setting(SHAPE, RoundCost(), 3, plugin("hetsched.solvers", "all-cpu")(), frequency_LE))
    assert found[:4] == [ExpertId(0, 4), ExpertId(1, 5), ExpertId(2, 1), ExpertId(0, 3)]


def two_requests() -> RoutingTrace:
    """Request 0 uses experts 0 and 1 in layer 0, then mostly 2; request 1 uses 4 and 5 everywhere."""
    first = [[[0, 1], [2, 3], [2, 0]], [[0, 1], [2, 1], [2, 1]], [[0, 1], [2, 1], [2, 3]]]
    trace = trace_of(first + [[[4, 5], [4, 5], [4, 5]]] * 3, SHAPE.num_experts)
    trace.sequence_T[3:] = 1
    return trace


def test_moe_infinity_prefetches_what_the_nearest_request_used_next() -> None:
    """Nearest: request 0. (1, 2): 1/2 * 2/3; (1, 1): 1/3 * 2/3; (2, 2): 1/2 * 1/3; (1, 3): 1/6 * 2/3."""
    bench = Bench(MoeInfinity(depth=1), 8, RoundCost(), history=two_requests())
    bench.ask(0, {0: 1, 1: 1})
    assert [expert for expert, _ in bench.prefetch()] == [ExpertId(1, 2)]
    assert [expert for expert, _ in bench.prefetch()] == [ExpertId(1, 1)]
    bench.ask(1, {2: 1, 4: 1})  # cosines 1 and 3 / sqrt(2 * 14) against 0 and 1 / 2: still request 0
    assert [expert for expert, _ in bench.prefetch()] == [ExpertId(2, 2)]
    bench.ask(2, {4: 1, 5: 1})
    assert bench.prefetch() == []  # no layer is left


def test_moe_infinity_keeps_what_it_prefetched_until_its_layer_has_run() -> None:
    bench = Bench(MoeInfinity(), 3, RoundCost(), history=two_requests())
    bench.ask(0, {0: 1, 1: 1})
    assert bench.prefetch() == [(ExpertId(1, 2), None)]
    assert bench.prefetch() == []  # (1, 1) would displace it: the others are active
    bench.ask(1, {4: 1})
    assert ExpertId(1, 2) not in bench.residency.residents()  # unused so far, the lowest ratio


def test_moe_infinity_evicts_by_request_ratio_and_layer() -> None:
    """(0, 0): 1/2 * 1; (0, 1): 1/2 * 1; (1, 0): 1 * 2/3. A fourth expert displaces (0, 0), the first of the lowest."""
    bench = Bench(MoeInfinity(), 3, RoundCost())
    assert bench.ask(0, {0: 1, 1: 1}) == ({0, 1}, {0: None, 1: None})
    assert bench.ask(1, {0: 1}) == ({0}, {0: None})
    assert bench.ask(2, {3: 1}) == ({3}, {3: (0, 0)})
    assert bench.ask(0, {5: 1}) == ({5}, {5: (2, 3)})  # 1 * 1/3
    assert bench.ask(1, {1: 1, 2: 1, 3: 1, 4: 1})[0] == {1, 2, 3}  # three slots: the fourth runs on the CPU


def test_moe_infinity_requests_begin_where_the_demand_says() -> None:
    """However long they are, and whatever phases their steps have."""
    policy = MoeInfinity()
    bench = Bench(policy, 3, RoundCost(), history=two_requests())
    for _ in range(9):
        bench.ask(0, {0: 1})
    assert policy._past.count == 2
    bench.ask(0, {3: 8}, 8, Phase.PREFILL, new_request=True)
    bench.ask(0, {3: 8}, 8, Phase.PREFILL)  # its second chunk
    assert policy._past.count == 3
    bench.ask(0, {1: 1})
    assert policy._past.arrays.request_LE[0].tolist() == [0, 1, 0, 16, 0, 0]


def similarity_C(matrices: ActivationMatrices) -> FloatArray:
    """Mean over layers of the cosine to each of C stored matrices, which `nearest` goes by."""
    matrices._entries.compare(matrices.arrays)
    return matrices.arrays.similar_C[: matrices.count].copy()


def test_activation_matrices_agree_with_the_formula() -> None:
    rng = np.random.default_rng(5)
    stored = [rng.integers(0, 4, (3, 6)).astype(float) for _ in range(70)]
    matrices = ActivationMatrices(3, 6, capacity=100)
    for count_LE in stored:
        matrices.add(count_LE)
    matrices.begin()
    request_LE = np.zeros((3, 6))
    for layer in (0, 1, 0, 1, 1):
        active = sorted(rng.choice(6, 3, replace=False).tolist())
        tokens = rng.integers(1, 5, 3).tolist()
        matrices.follow(layer, active, tokens)
        request_LE[layer, active] += tokens

    def cosine(a: FloatArray, b: FloatArray) -> float:
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / norms if norms else 0.0

    similar = [np.mean([cosine(request_LE[l], count_LE[l]) for l in range(3)]) for count_LE in stored]
    assert similarity_C(matrices) == pytest.approx(similar, rel=1e-5)
    nearest_LE, best_LE = matrices.nearest(), stored[int(np.argmax(similar))]
    assert nearest_LE is not None
    assert nearest_LE == pytest.approx(best_LE / np.maximum(best_LE.sum(axis=1, keepdims=True), 1), rel=1e-5)


def test_a_full_collection_forgets_what_was_nearest_least_often() -> None:
    matrices = ActivationMatrices(1, 3, capacity=2)
    for e in (0, 1):
        matrices.add(np.eye(3)[[e]])
    matrices.begin()
    matrices.follow(0, [0], [1])
    matrices.nearest()
    matrices.add(np.eye(3)[[2]])
    matrices.begin()
    matrices.follow(0, [1], [1])
    assert matrices.count == 2
    assert similarity_C(matrices).max() == 0.0  # expert 1's is gone
    matrices.follow(0, [2], [9])
    assert np.argmax(similarity_C(matrices)) == 1


@pytest.mark.parametrize(
    ("level", "count", "after"),
    [(0, 5, 1), (0, 4, 0), (1, 5, 1), (1, 6, 2), (4, 9, 5), (5, 99, 5), (2, 1, 1), (2, 2, 2), (1, 0, 0), (0, 0, 0)],
)
def test_spac_levels(level: int, count: int, after: int) -> None:
    """Up one where count - s >= 5, down one where s - count >= 1, within 0..5."""
    policy = MoeSpacFixed()
    bench = Bench(policy, 2, RoundCost())
    policy.level_LE[1, 3] = level
    bench.ask(1, {0: 1, 3: count} if count else {0: 1}, num_tokens=max(count, 1), phase=Phase.VERIFY)
    assert policy.level_LE[1, 3] == after


def test_spac_copies_from_the_threshold_on_and_evicts_below_it() -> None:
    policy = MoeSpacFixed()
    bench = Bench(policy, 5, RoundCost(), resident=[(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)])
    assert bench.ask(0, {0: 1, 5: 1}) == ({0}, {})  # misses on the CPU
    policy.level_LE[:] = 0
    policy.level_LE[1, [0, 2]] = 1, 2
    policy.level_LE[2, [0, 3]] = 1, 4
    policy.level_LE[0, 4] = 2
    assert bench.prefetch() == [(ExpertId(2, 3), ExpertId(1, 1))]  # highest level first; layer 0 runs and is frozen
    assert bench.prefetch() == []  # nobody else is below the threshold
    policy.level_LE[2, 0] = 0
    assert bench.prefetch() == [(ExpertId(1, 2), ExpertId(2, 0))]  # of two with level 2 the next layer's


def test_spac_does_not_move_without_verify_steps() -> None:
    policy = MoeSpacFixed()
    bench = Bench(policy, 2, RoundCost())
    for _ in range(20):
        bench.ask(0, {0: 1, 1: 1})
        assert bench.prefetch() == []
    assert not policy.level_LE.any()


@pytest.mark.parametrize(
    ("copy_s", "horizon", "copied"),
    [(3.0, 1.0, [0]), (9.0, 1.0, []), (9.0, 4.0, [0]), (1.0, 1.0, [0, 1]), (3.0, 4.0, [0, 1])],
)
def test_spac_balances_the_lanes(copy_s: float, horizon: float, copied: list[int]) -> None:
    """A (level 3) and B (level 1) missed, 4 s each on the CPU. Copies of 3 s in one step: none 8, A max(1, 4) + 3 = 7,
    both 2 + 6 = 8. Of 9 s: 8, 13, 20. Of 9 s in four steps: 32, 25, 26; of 3 s: 32, 19, 14; of 1 s in one: 8, 5, 4."""
    policy = MoeSpac(window=1, horizon=horizon, depth=2)
    bench = Bench(policy, 2, RoundCost(copy=copy_s), resident=[(1, 4), (1, 5)])
    policy.level_LE[0, [0, 1]] = 4, 1  # one token each: the higher level falls by one, the other stays
    for layer, tokens in enumerate(({0: 1, 1: 1}, {0: 1}, {0: 1})):
        bench.ask(layer, tokens)
    assert policy.level_LE[0, :2].tolist() == [3, 1]
    victims = [ExpertId(1, 4), ExpertId(1, 5)]
    assert bench.prefetch() == [(ExpertId(0, e), victim) for e, victim in zip(copied, victims, strict=False)]


@pytest.mark.parametrize("rule", ["rule-fiddler", "list-hybrimoe", "greedy-dali", "ratio-freetoken", "all-fetch"])
def test_remembered_decisions_are_those_of_the_rule(rule: str) -> None:
    """For one token, whoever is resident and however busy the link: the same as by posing the problem."""
    rng = np.random.default_rng(1)
    fetched = remembered = 0
    for slots, copy_s in itertools.product((1, 4, 9), (2.0, 5.0, 13.0)):
        known = Setting(SHAPE, RoundCost(copy=copy_s), slots, plugin("hetsched.solvers", "all-cpu")())
        remembering, posing = RuleDispatch(known, rule), RuleDispatch(known, rule)
        posing._quiet = lambda demand, view: None  # type: ignore[method-assign]
        keep_LE = rng.random((3, 6))
        for _ in range(40):
            residency = Residency(3, 6, slots)
            residency.fill(ExpertId(*divmod(int(f), 6)) for f in rng.permutation(18)[: rng.integers(slots + 1)])
            tokens_E = np.zeros(6, np.int64)
            tokens_E[rng.choice(6, 4, replace=False)] = 1
            busy_s, on_its_way = float(rng.choice([0.0, 0.5, 3.0])) * copy_s, ExpertId(0, int(rng.integers(6)))
            view = View(residency, LinkState(busy_s))
            if residency.free_slots and residency.state(on_its_way) == State.ABSENT:
                residency.apply(Fetch(on_its_way, None, prefetch=True, cause="test"))
                view = View(residency, LinkState(busy_s, (), ((on_its_way, busy_s + 1.0),)))
            demand = Demand(0, 0, Phase.DECODE, tokens_E, 1)
            first, second = remembering.decide(demand, view, keep_LE), posing.decide(demand, view, keep_LE)
            assert set(first.runs) == set(second.runs)
            assert first.fetches == second.fetches
            assert first.predicted_s == pytest.approx(second.predicted_s)
            fetched += len(first.fetches)
        remembered += sum(quiet is not None for quiet in remembering._known.values())
    assert fetched > 0
    assert remembered > 0


@pytest.mark.parametrize("kind", [Fiddler, HybriMoe])
def test_kernels_decide_as_the_rule_posed_in_python(kind: type[Any]) -> None:
    """Whoever is resident, however busy the link, one token or several: runs, fetches, victims and the makespan."""
    rng, fetched, waited = np.random.default_rng(2), 0, 0
    for slots, copy_s in itertools.product((0, 2, 5, 9), (0.5, 3.0, 12.0)):
        setting = Setting(SHAPE, RoundCost(copy=copy_s), slots, plugin("hetsched.solvers", "all-cpu")())
        policy = kind()
        policy.start(setting)
        give_methods(policy, setting)
        posing, keep_LE = RuleDispatch(setting, RULES[policy.name]), KEPT[policy.name](policy)
        for _ in range(40):
            residency, num_tokens = Residency(3, 6, slots), int(rng.integers(1, 4))
            keep_LE[:] = rng.integers(0, 9, (3, 6))
            residency.fill(ExpertId(*divmod(int(f), 6)) for f in rng.permutation(18)[: rng.integers(slots + 1)])
            tokens_E = np.zeros(6, np.int64)
            tokens_E[rng.choice(6, 4, replace=False)] = rng.integers(1, num_tokens + 1, 4)
            busy_s, on_its_way = float(rng.choice([0.0, 0.5, 3.0])) * copy_s, ExpertId(0, int(rng.integers(6)))
            view = View(residency, LinkState(busy_s))
            if residency.free_slots and residency.state(on_its_way) == State.ABSENT:
                residency.apply(Fetch(on_its_way, None, prefetch=True, cause="test"))
                view = View(residency, LinkState(busy_s, (), ((on_its_way, busy_s + 1.0),)))
                waited += 1
            demand = Demand(0, 0, Phase.VERIFY, tokens_E, num_tokens)
            found, expected = policy.plan(demand, view), posing.decide(demand, view, keep_LE)
            assert {run[:3] for run in found.runs} == {run[:3] for run in expected.runs}
            assert [fetch[:2] for fetch in found.fetches] == [fetch[:2] for fetch in expected.fetches]
            assert found.predicted_s == pytest.approx(expected.predicted_s)
            fetched += len(found.fetches)
    assert fetched > 50
    assert waited > 50


RULES = {"fiddler": "rule-fiddler", "hybrimoe": "list-hybrimoe"}
KEPT = {"fiddler": lambda policy: policy._keep_LE, "hybrimoe": lambda policy: policy._score_LE}


class Remembering:
    """A forecaster without a compiled form: a mean over all that it has seen, made anew at every question."""

    name = "remembering"
    reach = 0

    def start(self, geometry: MoEGeometry, frequency_LE: Any = None, history: Any = None) -> None:
        self.seen_LE = np.ones((geometry.num_layers, geometry.num_experts))

    def observe(self, demand: Demand) -> None:
        self.seen_LE[demand.layer, demand.active] += 1.0

    def demand_LE(self) -> FloatArray:
        share_LE: FloatArray = self.seen_LE / self.seen_LE.max()
        return share_LE

    def next_LE(self) -> FloatArray:
        return self.demand_LE()


@pytest.mark.parametrize("make", [Transition, Remembering])
def test_a_forecaster_in_python_teaches_kernels_too(make: Any) -> None:
    """What learning_of keeps is what the forecaster says, after every layer."""
    forecaster, asked = make(), make()
    for each in (forecaster, asked):
        each.start(SHAPE, None, None)
    learning = learning_of(forecaster)
    kernels = learning.taught(PolicyKernels("test", (), lambda *given: 0))
    assert (kernels.observe is None) == (make is Transition)
    for step, layer in itertools.product(range(4), range(SHAPE.num_layers)):
        demand = Demand.listed(step, layer, Phase.DECODE, [step, 5], [1, 1], 1, SHAPE.num_experts)
        (kernels.observe or forecaster.observe)(demand)
        asked.observe(demand)
        np.testing.assert_array_equal(learning.next_LE, asked.next_LE())
        np.testing.assert_array_equal(learning.demand_LE, asked.demand_LE())
    assert (learning.next_LE[:, 5] > learning.next_LE[:, 4]).all()


def test_what_is_remembered_is_void_after_recalibration() -> None:
    """Once the link is known to be ten times as fast, the same miss is fetched."""
    cost = CostModel(machine("rtx-4060-laptop-8gb"), SHAPE)
    dispatch = RuleDispatch(Setting(SHAPE, cost, 6, plugin("hetsched.solvers", "all-cpu")()), "rule-fiddler")
    demand = Demand(0, 0, Phase.DECODE, np.array([1, 0, 0, 0, 0, 0]), 1)
    view, keep_LE = View(Residency(3, 6, 6), LinkState()), np.zeros((3, 6))
    before = dispatch.decide(demand, view, keep_LE)
    assert not before.fetches
    cost.recalibrate({"copy": 0.25, "cpu": 4.0})
    assert cost.copy_s() + cost.each_gpu_s([1])[0] < cost.each_cpu_s([1])[0]
    assert [fetch.expert for fetch in dispatch.decide(demand, view, keep_LE).fetches] == [ExpertId(0, 0)]


def replayed(name: str, trace: RoutingTrace, slots: int, **grouping: Any) -> Replay:
    half = trace.num_tokens // 2
    parts = [
        RoutingTrace(trace.experts_TLK[part], trace.sequence_T[part], trace.phase_T[part], trace.num_experts)
        for part in (slice(0, half), slice(half, None))
    ]
    made = Scheduler(
        SHAPE,
        machine("rtx-4060-laptop-8gb"),
        slots * SHAPE.expert_bytes,
        policy=name,
        history=parts[0],
        clock=ConstantClock(0.0),
    )
    return simulate(parts[1], steps_of(parts[1], **grouping), made)


@pytest.mark.parametrize("grouping", [{}, {"verify": 8}], ids=["decode", "verify"])
@pytest.mark.parametrize("name", PEERS)
def test_replays_are_deterministic_and_complete(name: str, grouping: dict[str, int]) -> None:
    """The simulator's checks hold on a short trace; every demanded expert is counted, and a second run is the same."""
    trace = random_trace(np.random.default_rng(3), 240, SHAPE.num_layers, SHAPE.num_experts, SHAPE.top_k)
    first, second = (replayed(name, trace, 6, **grouping) for _ in range(2))
    assert first.step_s_S.tolist() == second.step_s_S.tolist()
    assert first.stats.tokens == 120
    if not grouping:
        assert first.stats.active == 120 * SHAPE.num_layers * SHAPE.top_k
    assert 0 < first.stats.hits < first.stats.active


@pytest.mark.parametrize("name", ["moe-spac+horizon=400", "moe-spac-fixed"])
def test_spac_moves_with_verify_steps(name: str) -> None:
    """Where all experts are alike, boundaries move only for a horizon in which chance seems to pay."""
    trace = random_trace(np.random.default_rng(3), 240, SHAPE.num_layers, SHAPE.num_experts, SHAPE.top_k)
    assert replayed(name, trace, 6).stats.prefetches == 0
    assert replayed(name, trace, 6, verify=8).stats.prefetches > 0
