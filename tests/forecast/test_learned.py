"""Statistics that stay: the file, what it refuses, sums that add up, and runs that begin with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hetsched.cli import main
from hetsched.errors import InputError
from hetsched.forecast import POPULARITY
from hetsched.forecast.ensemble import Ensemble
from hetsched.forecast.transition import Transition
from hetsched.geometry import MoEGeometry
from hetsched.learned import Memory, load, save, shape_of
from hetsched.machine.gallery import machine
from hetsched.policies.utility import Utility
from hetsched.replay import replay_one
from hetsched.replay.simulator import ConstantClock, simulate
from hetsched.replay.single import FORESEEN
from hetsched.replay.steps import steps_of
from hetsched.replay.study import Study
from hetsched.scheduler import Scheduler
from hetsched.testing.forecaster_ground import SHAPE, teach
from hetsched.traces.trace import RoutingTrace
from hetsched.types import FloatArray
from tests.forecast.test_forecasters import chained
from tests.replay.compare_made import MACHINE, geometry, model_file, trace_file

TOPICS = MoEGeometry("topics", num_layers=6, num_experts=32, top_k=2, hidden=1024, ffn=2048, dense_params=4_000_000)


def topics(tokens: int, seed: int) -> RoutingTrace:
    """In every layer a few experts are popular, others in every layer; the same for all seeds."""
    popular_LE = np.log(np.random.default_rng(0).dirichlet(np.full(32, 0.15), 6) + 1e-4)
    random = np.random.default_rng(seed)
    chosen_TLE = np.argsort(-(popular_LE + random.gumbel(size=(tokens, 6, 32))), axis=2)
    experts_TLK = np.sort(chosen_TLE[:, :, :2], axis=2).astype(np.int16)
    meta = {"model": "topics"}
    return RoutingTrace(experts_TLK, np.zeros(tokens, np.int32), np.ones(tokens, np.uint8), 32, meta=meta)


def scheduler(learned: dict[str, FloatArray] | None = None, forecaster: object = None) -> Scheduler:
    slots = TOPICS.total_experts // 4
    return Scheduler(
        TOPICS,
        machine("rtx-4060-laptop-8gb"),
        slots * TOPICS.expert_bytes,
        policy=Utility(),
        forecaster=forecaster,
        learned=learned,
        clock=ConstantClock(30e-6),  # what is copied must not depend on how fast this host is
    )


def hit_rate(made: Scheduler, trace: RoutingTrace) -> float:
    return float(simulate(trace, steps_of(trace), made).stats.as_dict()["hit_rate"])


@pytest.mark.parametrize("forecaster", [None, Ensemble])
def test_a_warm_start_hits_at_once_what_a_long_run_hits(tmp_path: Path, forecaster: type | None) -> None:
    """Through the file: the first 40 tokens, cold, warm, and of a run that has seen 1,500."""
    cold, first, path = scheduler(forecaster=forecaster), topics(40, seed=9), tmp_path / "seen.npz"
    cold_rate = hit_rate(cold, first)
    long = scheduler(forecaster=forecaster)
    hit_rate(long, topics(1500, seed=1))
    save(path, Memory(shape_of(TOPICS)).after(long))
    warm_rate = hit_rate(scheduler(load(path, TOPICS).sums, forecaster), first)
    before = long.stats.hits, long.stats.active
    hit_rate(long, first)
    steady_rate = (long.stats.hits - before[0]) / (long.stats.active - before[1])
    assert warm_rate > steady_rate - 0.03
    assert warm_rate > cold_rate + 0.05


def test_saving_and_loading_gives_the_same_sums(tmp_path: Path) -> None:
    path, made = tmp_path / "seen.npz", scheduler()
    hit_rate(made, topics(30, seed=2))
    memory = Memory(shape_of(TOPICS)).after(made)
    assert {POPULARITY, "transition/seen_LE", "transition/pairs_LEDE"} == set(memory.sums)
    save(path, memory)
    found = load(path, TOPICS)
    assert found.shape == memory.shape
    assert all((found.sums[name] == memory.sums[name]).all() for name in memory.sums)
    assert memory.sums[POPULARITY].sum() == 30 * 6 * 2
    assert load(tmp_path / "none.npz", TOPICS).sums == {}


def test_popularity_goes_on_adding_up(tmp_path: Path) -> None:
    """Each run begins with what is there, and writes both."""
    memory = Memory(shape_of(TOPICS))
    for runs in (1, 2, 3):
        made = scheduler(memory.sums)
        hit_rate(made, topics(20, seed=runs))
        memory = memory.after(made)
        assert memory.sums[POPULARITY].sum() == runs * 20 * 6 * 2
        assert memory.sums["transition/seen_LE"].sum() == runs * 20 * 6 * 2


def test_pairs_add_up_to_those_of_both_workloads() -> None:
    """Two halves of a trace, learned apart and added, forecast as the whole does."""
    whole, halves = chained(300, 0), []
    for part in (slice(0, 150), slice(150, 300)):
        forecaster = Transition()
        forecaster.start(SHAPE)
        teach(forecaster, RoutingTrace(whole.experts_TLK[part], whole.sequence_T[part], whole.phase_T[part], 10))
        halves.append(forecaster.learned())
    at_once, added = Transition(), Transition()
    for made in (at_once, added):
        made.start(SHAPE)
    teach(at_once, whole)
    added.recall({name: halves[0][name] + halves[1][name] for name in halves[0]})
    for name, array in at_once.learned().items():
        assert (added.learned()[name] == array).all()


def test_counts_without_room_are_scaled() -> None:
    """More than a count holds: proportions stay, and no pair is counted oftener than its first expert."""
    forecaster, other = Transition(), Transition()
    for made in (forecaster, other):
        made.start(SHAPE)
    teach(forecaster, chained(200, 0))
    other.recall({name: 1000.0 * array for name, array in forecaster.learned().items()})
    few, many = forecaster.learned(), other.learned()
    assert many["seen_LE"].max() <= 2000
    assert (many["pairs_LEDE"] <= many["seen_LE"][:, :, None, None]).all()
    share, kept = (m["pairs_LEDE"] / np.maximum(m["seen_LE"], 1)[:, :, None, None] for m in (few, many))
    assert np.abs(share - kept).max() < 0.01


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path, shape = tmp_path / "bad.npz", shape_of(TOPICS)
    good = {POPULARITY: np.ones((6, 32))}
    cases: list[tuple[str, object]] = [
        ("was learned of a model with 24 layers", Memory("24 layers of 8 experts", good)),
        ("missing or damaged", Memory(shape, {})),
        ("missing or damaged", Memory(shape, {POPULARITY: np.ones((5, 32))})),
        ("finite numbers", Memory(shape, {**good, "a/b": np.array([np.nan])})),
        ("finite numbers", Memory(shape, {**good, "a/b": np.array([1])})),
    ]
    for expected, memory in cases:
        save(path, memory)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=expected):
            load(path, TOPICS)
    for damage in (b"", b"no zip", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(damage)
        with pytest.raises(InputError, match=r"damaged|is empty"):
            load(path, TOPICS)
    np.savez(path, meta=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="damaged"):
        load(path, TOPICS)
    np.savez(path, meta=np.array(json.dumps({"format": "hetsched-learned/9", "shape": shape})))
    with pytest.raises(InputError, match="hetsched-learned/9"):
        load(path, TOPICS)


def test_the_command_line_keeps_what_it_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run begins with the file of the first and adds to it; the forecaster that was chosen is scored."""
    path = tmp_path / "seen.npz"
    asked = ["simulate", "--trace", str(trace_file(tmp_path)), "--model", str(model_file(tmp_path)), "--fit-sequences"]
    asked += ["0", "--hardware", MACHINE, "--decision", "0.00002", "--bound-windows", "0", "--json"]
    asked += ["--forecaster", "hetsched.forecast.gamma_poisson:GammaPoisson", "--learned", str(path)]
    seen = []
    for _ in range(2):
        assert main(asked) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["forecast"]["forecaster"] == "gamma-poisson"
        assert told["forecast"]["observe_s"] is None  # decisions are a constant: all is reproducible
        assert 0 < told["forecast"]["recall"] <= 1
        seen.append((told["tokens_scored"], load(path, geometry()).sums[POPULARITY].sum()))
    (tokens, first), (_, second) = seen
    assert first == tokens * geometry().num_layers * geometry().top_k == second - first


@pytest.mark.parametrize("chosen", [None, Transition()])
def test_what_is_kept_is_the_replays_not_that_of_scoring_it(chosen: object) -> None:
    """Pairs of every token replayed, though the forecaster is scored afterwards on the first ones."""
    trace = topics(FORESEEN + 150, seed=6)
    study = Study.of(trace, TOPICS, [MACHINE])
    study = replace(study, fit_sequences=0, decision_s=2e-5, bound_windows=0, forecaster=chosen)
    kept = Memory(shape_of(TOPICS)).after(replay_one(study, "hetsched", 0.25).scheduler).sums
    assert kept[POPULARITY].sum() == trace.num_tokens * 6 * 2
    assert kept["transition/seen_LE"].sum() == trace.num_tokens * 6 * 2


def test_the_command_line_refuses_another_models_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "seen.npz"
    save(path, Memory(shape_of(TOPICS), {POPULARITY: np.ones((6, 32))}))
    before = path.read_bytes()
    asked = ["simulate", "--trace", str(trace_file(tmp_path)), "--model", str(model_file(tmp_path)), "--hardware"]
    assert main([*asked, MACHINE, "--learned", str(path)]) == 2
    assert "was learned of a model with 6 layers of 32 experts" in capsys.readouterr().err
    assert path.read_bytes() == before
