"""The protocols: the published one against a plain simulation, the honest one against compare, the study by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hetsched.board import N_ACTIVE, N_HITS
from hetsched.errors import InputError
from hetsched.evaluate import evaluate
from hetsched.evaluate.evaluation import in_two
from hetsched.evaluate.forecasters import asking, forecasters_of, takes_forecaster
from hetsched.evaluate.foresight import foresee
from hetsched.evaluate.honest import ran_sums
from hetsched.evaluate.imbalance import entropy_bits, gini, imbalance
from hetsched.evaluate.measures import values
from hetsched.evaluate.published import GUESSES, SEED, WARM_UP, simulation
from hetsched.forecast.ewma import Ewma
from hetsched.policies.lru import OnDemandLru
from hetsched.replay import compare
from hetsched.replay.cell import Cell
from hetsched.replay.opened import Bench
from hetsched.replay.strategies import Strategy, strategies_of
from hetsched.replay.study import Study
from hetsched.traces.split import sequence_starts
from hetsched.types import Demand
from tests.evaluate.made import Scripted, bench
from tests.evaluate.plain_cache import PlainCache, counted
from tests.replay.compare_made import MACHINE, geometry, random_trace

DECISION_S = 2e-5


class Unable(Ewma):
    """Cannot work on what there is."""

    name = "unable"

    def start(self, *given: object, **more: object) -> None:
        raise InputError("it needs hidden states, which the trace does not hold")


@pytest.mark.parametrize("fraction", [0.1, 0.4])
@pytest.mark.parametrize("guessing", [False, True])
def test_the_published_simulation_is_the_plain_one(fraction: float, guessing: bool) -> None:
    """Sequence by sequence: random prefill, ten tokens that are not counted, guesses inserted, one LRU for all."""
    opened = bench(random_trace(tokens=150, sequences=6))
    trace, layers, experts = opened.scored, opened.scored.num_layers, opened.scored.num_experts
    slots = int(fraction * layers * experts)
    foresight = foresee(Ewma(), opened, GUESSES, warm_up=WARM_UP) if guessing else None
    found = simulation(opened, fraction, foresight)
    rng, plain, starts = np.random.default_rng(SEED), [], sequence_starts(trace)
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        keys = [divmod(int(key), experts) for key in rng.permutation(layers * experts)[:slots]]
        cache = PlainCache(slots, False, keys)
        chosen_TLK = trace.experts_TLK[begin:end]
        said = np.zeros((end - begin, layers, 0), int) if foresight is None else foresight.guesses_TLG[begin:end]
        before = counted([cache], chosen_TLK[:WARM_UP], said[:WARM_UP])
        after = counted([cache], chosen_TLK[WARM_UP:], said[WARM_UP:])
        plain.append([b - a for a, b in zip(before, after, strict=True)])
    hits_S, loads_S, wasted_S = np.array(plain).T
    assert found["hits"].tolist() == hits_S.tolist()
    assert (found["bytes"] / opened.study.geometry.expert_bytes).tolist() == loads_S.tolist()
    assert (found["wasted_bytes"] / opened.study.geometry.expert_bytes).tolist() == wasted_S.tolist()
    assert found["tokens"].sum() == trace.num_tokens - WARM_UP * 3


def test_published_rows() -> None:
    """No predictor, each forecaster, and the oracle, which hits everything; nothing has a speed."""
    came = evaluate("published", random_trace(tokens=150), geometry(), forecasters=["ewma", Scripted([0.1] * 8)])
    assert [row.forecaster for row in came.rows] == [None, "ewma", "scripted", "oracle"]
    none, ewma, _, oracle = came.rows
    assert none.recall is None
    assert oracle.hit_rate == oracle.recall == 1.0
    assert oracle.clairvoyant
    assert ewma.hit_rate is not None
    assert none.hit_rate is not None
    assert none.hit_rate < ewma.hit_rate < 1.0
    assert {row.tokens_per_s for row in came.rows} == {None}
    assert "same layer's router input" in " ".join(came.facts["notes"])


def test_published_needs_more_than_its_warm_up() -> None:
    with pytest.raises(InputError, match="more than 10 tokens"):
        evaluate("published", random_trace(tokens=60, sequences=6), geometry(), forecasters=["ewma"])


def test_honest_rows_are_those_of_compare() -> None:
    """The strategy with its own forecaster comes to the same as in compare: speed, hits, bytes, waste."""
    trace = random_trace()
    came = evaluate(
        "honest",
        trace,
        geometry(),
        hardware=MACHINE,
        forecasters=["ewma", "transition"],
        gpu_fractions=[0.25],
        decision_s=DECISION_S,
    )
    assert [(r.forecaster, r.strategy) for r in came.rows] == [
        (None, "on-demand-lru"),
        ("ewma", "hetsched"),
        ("transition", "hetsched"),
    ]
    names = ["on-demand-lru", "hetsched"]
    ranked = compare(
        trace, geometry(), hardware=[MACHINE], strategies=names, bound_windows=0, decision_s=DECISION_S
    ).rows
    for ours, label in ((came.rows[0], "on-demand-lru"), (came.rows[2], "hetsched")):
        theirs = next(row for row in ranked if row.strategy == label)
        for name in ("tokens_per_s", "hit_rate", "bytes_per_token", "wasted_bytes_per_token"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name)), name
    assert came.rows[0].recall is None
    assert came.rows[1].recall != came.rows[2].recall
    interval = came.rows[2].ci95["tokens_per_s"]
    assert interval is not None
    assert interval[0] < (came.rows[2].tokens_per_s or 0) < interval[1]


class SlowLru(OnDemandLru):
    """The same rule in Python: the replay goes layer by layer."""

    def observe(self, demand: Demand) -> None:
        super().observe(demand)


@pytest.mark.parametrize("policy", [OnDemandLru, SlowLru])
def test_counts_of_each_step_add_up_to_the_run(policy: type) -> None:
    """In the compiled loop and in Python alike; by sequence they give the run's own figures."""
    opened = Bench(replace(Study.of(random_trace(), geometry(), [MACHINE]), decision_s=DECISION_S))
    replayed = Cell(opened.study.machines[0], 0.25, Strategy("lru", policy)).replay(opened)
    assert (np.diff(replayed.counts_SC, axis=0) >= 0).all()
    active_S = np.diff(replayed.counts_SC[:, N_ACTIVE], prepend=0)
    assert active_S.tolist() == [opened.scored.num_layers * opened.scored.top_k] * opened.steps.count
    assert replayed.counts_SC[-1, N_HITS] == replayed.stats.hits
    sums_S = ran_sums(opened, replayed)
    assert len(sums_S["hits"]) == 3
    found, run = values(sums_S), replayed.stats.as_dict()
    assert all(found[name] == pytest.approx(run[name]) for name in found)


def test_the_study_has_every_cache_with_and_without_speculation() -> None:
    came = evaluate("caching-study", random_trace(), geometry(), gpu_fractions=[0.25, 0.75])
    keys = [(row.forecaster, row.strategy, row.gpu_fraction) for row in came.rows]
    caches = ("lru", "lfu", "lru-per-layer", "lfu-per-layer")
    assert keys == [(f, c, g) for f in (None, "transition") for c in caches for g in (0.25, 0.75)]
    plain = {key[1:]: row for key, row in zip(keys, came.rows, strict=True) if key[0] is None}
    for key, row in zip(keys, came.rows, strict=True):
        assert bool(row.stand_in) == (key[0] is not None)
        assert (row.hit_rate or 0) >= (plain[key[1:]].hit_rate or 0)
    document = came.document()
    assert len(document["imbalance"]["gini"]) == len(document["locality"]["repeat"]) == 3
    recalls = document["speculation_recall_by_layer"]["transition"]
    assert np.mean(recalls) == pytest.approx(came.rows[-1].recall)


def test_imbalance_by_hand() -> None:
    """Counts 0 0 0 8 are as uneven as four experts can be, 2 2 2 2 not at all; 1 1 2 4 has Gini 5/16."""
    found = imbalance(np.array([[0, 0, 8, 0], [2, 2, 2, 2], [4, 1, 2, 1]]))
    assert found["gini"] == pytest.approx([3 / 4, 0.0, 5 / 16])
    assert found["entropy_bits"] == pytest.approx([0.0, 2.0, 1.75])
    assert found["most_used_experts"] == 1
    assert found["most_used_share"] == found["top_expert_share"] == pytest.approx([1.0, 0.25, 0.5])
    assert found["share_by_rank"] == pytest.approx([1.75 / 3, 0.5 / 3, 0.375 / 3, 0.375 / 3])


def test_gini_is_the_mean_difference() -> None:
    """Half of the relative mean difference of all pairs, and entropy is that of any order."""
    share_E = np.random.default_rng(0).dirichlet(np.ones(9))
    pairs = np.abs(share_E[:, None] - share_E[None]).mean()
    assert gini(share_E[None])[0] == pytest.approx(pairs / (2 * share_E.mean()))
    assert entropy_bits(share_E[None]) == pytest.approx(entropy_bits(share_E[::-1][None]))


def test_a_trace_of_one_sequence_is_cut_in_it() -> None:
    """Half is history, the other half scored; there are no intervals, and the notes say why."""
    trace = random_trace(sequences=1)
    assert in_two(random_trace(sequences=2), 0.5).sequence_T.tolist() == random_trace(sequences=2).sequence_T.tolist()
    came = evaluate("published", trace, geometry(), forecasters=["ewma"])
    assert came.facts["tokens_scored"] == 60
    assert set(came.rows[0].ci95.values()) == {None}
    assert any("one sequence" in note for note in came.facts["notes"])


def test_a_forecaster_that_cannot_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among all it is left out with a note; asked for by name it is an error."""
    with pytest.raises(InputError, match="hidden states"):
        evaluate("published", random_trace(), geometry(), forecasters=[Unable])
    from hetsched.evaluate import forecasters

    monkeypatch.setattr(forecasters, "installed", lambda group: {"ewma": None, f"{__name__}:Unable": None})
    came = evaluate("published", random_trace(), geometry())
    assert [row.forecaster for row in came.rows] == [None, "ewma", "oracle"]
    assert any("unable is left out" in note for note in came.facts["notes"])


def test_bad_arguments() -> None:
    for wrong, match in (
        ({"protocol": "nice"}, "not one of"),
        ({"protocol": "honest"}, "hardware"),
        ({"forecasters": ["ewma", Ewma]}, "two forecasters"),
        ({"forecasters": []}, "at least one"),
        ({"gpu_fractions": [1.5]}, "outside"),
    ):
        given = {"protocol": "published", "trace": random_trace(), "model": geometry(), **wrong}
        with pytest.raises(InputError, match=match):
            evaluate(**given)  # type: ignore[arg-type]


def test_a_bench_that_asks_a_forecaster_hands_it_to_policies_that_want_one() -> None:
    (named,) = forecasters_of("EWMA")
    opened = asking(Bench(Study.of(random_trace(), geometry(), [MACHINE])), named)
    for strategy in strategies_of("hetsched,on-demand-lru"):
        scheduler = opened.scheduler(opened.study.machines[0], 0.25, strategy.policy())
        assert takes_forecaster(strategy) == isinstance(scheduler.forecaster, Ewma) == (strategy.label == "hetsched")


@pytest.mark.parametrize("name", ["hybrimoe", "dali"])
def test_a_policy_that_asks_a_forecaster_is_replayed_with_each(name: str) -> None:
    """What a policy declares decides, not a list of names; the forecaster's choice changes what is copied."""
    came = evaluate(
        "honest",
        random_trace(),
        geometry(),
        hardware=MACHINE,
        strategies=f"{name},on-demand-lru",
        forecasters=["EWMA", "transition"],
        gpu_fractions=[0.25],
        decision_s=30e-6,
    )
    rows = {(row.strategy, row.forecaster): row for row in came.rows}
    assert rows.keys() == {("on-demand-lru", None), (name, "ewma"), (name, "transition")}
    assert rows[name, "ewma"].bytes_per_token != rows[name, "transition"].bytes_per_token
