"""What is particular to single forecasters, by hand or by what they were made for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetsched.forecast import Context, tell
from hetsched.forecast.calibrated import Bins, to_sum
from hetsched.forecast.draft_gate import DraftGate
from hetsched.forecast.eam import Eam
from hetsched.forecast.ensemble import TRIALS, TRIED_EVERY, Ensemble
from hetsched.forecast.ewma import Ewma
from hetsched.forecast.fed import Replayed
from hetsched.forecast.gamma_poisson import GammaPoisson, strength_of
from hetsched.forecast.gate_ahead import GateAhead
from hetsched.forecast.last import FIRST, STRENGTH, Last
from hetsched.forecast.oracle import Oracle
from hetsched.forecast.pool import Pool, logit
from hetsched.forecast.score import score
from hetsched.forecast.spac_levels import SpacLevels
from hetsched.forecast.transition import Transition
from hetsched.testing.forecaster_ground import SHAPE, Knowing, drawn, routing, started, teach
from hetsched.traces.trace import RoutingTrace
from hetsched.types import Demand, Phase
from tests.forecast.test_forecasters import chained
from tests.oracles.gate_bins import GateBins


def demand(layer: int, *experts: int, tokens: int = 1, step: int = 0) -> Demand:
    tokens_E = tokens * np.bincount(experts, minlength=SHAPE.num_experts)
    return Demand(step, layer, Phase.DECODE if tokens == 1 else Phase.VERIFY, tokens_E, tokens)


def test_last_counts_how_often_demand_repeats() -> None:
    """Three, then two of them again: a = (4 * 0.5 + 2) / (4 + 3), and the rest of three among seven others."""
    last = started(Last)
    tell(last, demand(0, 0, 1, 2))
    tell(last, demand(0, 0, 1, 5))
    again = (FIRST * STRENGTH + 2) / (STRENGTH + 3)
    assert last.next_LE()[0, [0, 1, 5]] == pytest.approx(again)
    assert last.next_LE()[0, [2, 3, 9]] == pytest.approx(3 * (1 - again) / 7)


def test_gamma_poisson_believes_in_the_prior_as_far_as_sequences_agree() -> None:
    """Sequences of one workload: a strong prior. Each with experts of its own: the weakest."""
    alike = drawn(800)
    same = RoutingTrace(alike.experts_TLK, np.arange(800, dtype=np.int32) // 100, alike.phase_T, alike.num_experts)
    rows = [np.repeat(routing(1, seed=s).experts_TLK, 100, axis=0) for s in range(8)]
    unlike = RoutingTrace(np.concatenate(rows), same.sequence_T, same.phase_T, same.num_experts)
    assert strength_of(same) > 100
    assert strength_of(unlike) == 2.0


def test_gamma_poisson_by_hand() -> None:
    """Prior 0.3 worth 8 tokens, then one of its own: (8 * 0.3 + 1) / 9."""
    posterior = started(GammaPoisson)
    tell(posterior, demand(3, 0, 1, 2))
    assert posterior.next_LE()[3, 0] == pytest.approx(3.4 / 9)
    assert posterior.next_LE()[3, 9] == pytest.approx(2.4 / 9)


def test_spac_levels_move_as_published() -> None:
    """Up one where count - s >= 5, down one where s - count >= 1; single tokens raise nothing."""
    levels = SpacLevels()
    levels.start(SHAPE)
    for tokens, expected in ((4, 0), (5, 1), (6, 2), (6, 2), (7, 3), (1, 2)):
        tell(levels, demand(0, 0, 1, 2, tokens=tokens))
        assert levels._level_LE[0, :4].tolist() == [expected] * 3 + [0]


def test_eam_expects_what_the_nearest_request_used() -> None:
    """Two past requests; the first layer of a new one is like the second's, so all layers are expected to be."""
    rows = [np.repeat(routing(1, seed=s).experts_TLK, 50, axis=0) for s in (1, 2)]
    past = RoutingTrace(np.concatenate(rows), np.repeat([0, 1], 50).astype(np.int32), np.ones(100, np.uint8), 10)
    eam = started(Eam, None, past)
    tell(eam, demand(0, *routing(1, seed=2).experts_TLK[0, 0].tolist()))
    for layer in range(1, SHAPE.num_layers):
        likeliest = np.argsort(-eam.next_LE()[layer])[:3]
        assert set(likeliest.tolist()) == set(routing(1, seed=2).experts_TLK[0, layer].tolist())


def test_oracle_is_never_wrong() -> None:
    """But for the first layer of all, before which it has seen nothing."""
    trace = routing(30)
    scored = score(Oracle(), SHAPE, trace, contexts=Replayed(trace))
    assert scored.recall_L[1:].tolist() == [1.0] * (SHAPE.num_layers - 1)
    assert scored.recall_L[0] >= 29 / 30


@pytest.mark.parametrize("make", [GateAhead, DraftGate])
def test_gates_are_trusted_as_far_as_they_are_right(make: type) -> None:
    """The laws' gates are of another token in one case of four: what they promise comes in about 0.75 + 0.25 * 0.3."""
    trace = drawn(600, seed=3)
    uniform = routing(600)
    mixed_TLK = np.where(np.random.default_rng(0).random((600, 1, 1)) < 0.5, trace.experts_TLK, uniform.experts_TLK)
    trace = RoutingTrace(mixed_TLK, trace.sequence_T, trace.phase_T, trace.num_experts)
    scored = score(make(), SHAPE, trace, contexts=Knowing(trace))
    ewma = score(Ewma(), SHAPE, trace)
    assert 0.75 < scored.recall_L[1:].mean() < 0.95
    assert scored.recall_L[1:].mean() > ewma.recall_L[1:].mean() + 0.15
    assert scored.calibration_error < 0.05


def test_gates_of_several_tokens_teach_as_well() -> None:
    """Verify steps of four: the margin of what was chosen comes to mean it, though nobody says who demanded what."""
    gates = started(GateAhead)
    teach(gates, routing(400), tokens_per_step=4)
    said_DTE = np.array([[[0.3] * 3 + [0.1 / 7] * 7]], np.float32)
    tell(gates, demand(0, 0, 1, 2), Context(gates_DTE=said_DTE))
    assert gates.next_LE()[1, :3].min() > 0.65
    assert gates.next_LE()[1, 3:].max() < 0.3


@given(st.integers(0, 1000), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_the_kernels_of_gate_ahead_are_its_bins(seed: int, tokens: int) -> None:
    """What is read, and what is learned of it, as GateBins has it in NumPy, whatever the gates."""
    random, bins, ahead = np.random.default_rng(seed), GateBins(SHAPE.top_k), started(GateAhead)
    for _ in range(12):
        gate_TE = random.dirichlet(np.full(SHAPE.num_experts, 0.3), tokens).astype(np.float32)
        said = bins.read(gate_TE.astype(float))
        first = demand(0, *range(SHAPE.top_k), tokens=tokens)
        tell(ahead, first, Context(gates_DTE=gate_TE[None]))
        np.testing.assert_allclose(ahead.next_LE()[1], said.p_TE.mean(axis=0), rtol=1e-5)
        came = demand(1, *random.permutation(SHAPE.num_experts)[: SHAPE.top_k].tolist(), tokens=tokens)
        bins.learn(said, came.tokens_E)
        tell(ahead, came)


def test_gate_bins_read_margins() -> None:
    """Only the margin over the last chosen one counts: gates times a constant say the same."""
    bins, gate_TE = GateBins(2), np.random.default_rng(0).dirichlet(np.ones(10), 3)
    assert (bins.read(gate_TE).bins_TE == bins.read(0.5 * gate_TE).bins_TE).all()


def test_bins_come_to_what_came() -> None:
    bins, random = Bins(np.full(3, 0.5)), np.random.default_rng(0)
    which = random.integers(3, size=3000)
    bins.learn(which, (random.random(3000) < np.array([0.1, 0.5, 0.9])[which]).astype(float))
    assert bins.of(np.arange(3)) == pytest.approx([0.1, 0.5, 0.9], abs=0.05)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.data())
@settings(max_examples=80, deadline=None)
def test_scaling_keeps_sum_order_and_bounds(values: list[float], data: st.DataObject) -> None:
    p_E, total = np.array(values), data.draw(st.integers(1, len(values)))
    scaled_E = to_sum(p_E + 1e-6, total)
    assert scaled_E.sum() == pytest.approx(total)
    assert scaled_E.max() <= 1 + 1e-9
    assert (np.diff(scaled_E[np.argsort(p_E, kind="stable")]) >= -1e-9).all()


def test_pool_finds_the_member_that_is_right() -> None:
    """One says the truth, one says it doubly sure, one says anything: the pool comes to the truth."""
    random = np.random.default_rng(0)
    pool = Pool(2)
    for _ in range(2000):
        truth_E = random.uniform(0.05, 0.95, 16)
        odds_2E = np.stack([2.0 * logit(truth_E), random.normal(size=16)])
        pool.learn(odds_2E, (random.random(16) < truth_E).astype(float))
    assert pool.weight_M == pytest.approx([0.0, 0.5, 0.0], abs=0.05)


def test_pool_information_adds_up() -> None:
    """Of two runs, in either order, and halved: the weights that it stands for lie between, or stay."""
    random, pools = np.random.default_rng(1), [Pool(1), Pool(1)]
    for pool, factor in zip(pools, (1.0, 2.0), strict=True):
        for _ in range(500):
            truth_E = random.uniform(0.05, 0.95, 16)
            pool.learn(factor * logit(truth_E)[None], (random.random(16) < truth_E).astype(float))
    both = Pool(1)
    first, second = (pool.learned() for pool in pools)
    both.recall({name: first[name] + second[name] for name in first})
    assert pools[1].weight_M[1] < both.weight_M[1] < pools[0].weight_M[1]


def test_ensemble_drops_what_brings_nothing_and_keeps_what_does() -> None:
    """Where one layer determines the next, transition stays and a running mean goes, a hit being worth 1 ms."""
    trace = chained(2 * TRIED_EVERY * TRIALS // SHAPE.num_layers, 0)
    pooled = Ensemble((Transition, Ewma), hit_s=1e-3)
    pooled.start(SHAPE)
    teach(pooled, trace)
    assert [member.name for member in pooled.members] == ["transition"]
    costly = Ensemble((Transition, Ewma), hit_s=1e-9)
    costly.start(SHAPE)
    teach(costly, trace)
    assert len(costly.members) == 1  # nothing is worth its cost then, but somebody has to speak


def test_ensemble_is_no_worse_than_its_members() -> None:
    """In log score, on demands that each of them knows something of."""
    trace, members = routing(600), (Transition, Ewma, Last)
    pooled = score(Ensemble(members), SHAPE, trace)
    best = max(score(make(), SHAPE, trace).log_score for make in members)
    assert pooled.log_score > best - 0.005


def test_score_by_hand() -> None:
    """One layer, four experts, top 2: the first forecasts say 0.5 of all, whatever comes."""

    class Fixed(Ewma):
        def observe(self, demand: Demand, context: Context | None = None) -> None:
            """Learns nothing."""

        def next_LE(self) -> np.ndarray:
            return np.array([[0.9, 0.7, 0.3, 0.1]])

    shape = SHAPE.__class__("one", 1, 4, 2, hidden=8, ffn=8)
    chosen_TLK = np.array([[[0, 1]], [[0, 3]]], np.int16)
    trace = RoutingTrace(chosen_TLK, np.zeros(2, np.int32), np.ones(2, np.uint8), 4)
    scored = score(Fixed(), shape, trace)
    assert scored.recall == pytest.approx(3 / 4)
    nats = [np.log([0.9, 0.7, 0.7, 0.9]), np.log([0.9, 0.3, 0.7, 0.1])]
    assert scored.log_score == pytest.approx(np.mean(nats), abs=1e-6)
    assert scored.calibration_error == pytest.approx((0.1 * 2 + 0.2 * 2 + 0.3 * 2 + 0.4 * 2) / 8, abs=1e-6)
