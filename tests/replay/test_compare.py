"""Comparisons: what a cell is scored on, bounds, ranks, and strategies that fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hetsched.bound.clairvoyant import clairvoyant_bound
from hetsched.cost.model import CostModel
from hetsched.errors import InputError
from hetsched.machine import gallery
from hetsched.replay import Comparison, compare, limits
from hetsched.replay.simulator import ConstantClock, simulate
from hetsched.replay.steps import steps_of
from hetsched.scheduler import Scheduler
from hetsched.traces.split import split
from tests.replay.compare_made import (
    EXPERTS,
    LAYERS,
    MACHINE,
    TOP_K,
    Blind,
    Raises,
    Seer,
    geometry,
    random_trace,
    trace_of,
)

CHARGE_S = 2e-5


def made(strategies, **settings) -> Comparison:
    settings = {"hardware": [MACHINE], "decision_s": CHARGE_S, "bound_windows": 0, **settings}
    trace = settings.pop("trace", None) or random_trace()
    return compare(trace, geometry(), strategies=strategies, **settings)


def test_fitted_on_some_sequences_and_scored_on_others():
    """Popularity that is reversed half-way: fitted on the first half, a static placement never hits in the second."""
    half = EXPERTS // 2
    first = np.stack([np.arange(TOP_K) + (t % half) // TOP_K * TOP_K for t in range(40)])
    experts_TLK = np.repeat(np.concatenate([first, first + half])[:, None], LAYERS, axis=1)
    trace = trace_of(experts_TLK, sequences=4)
    (row,) = made(["static-frequency"], trace=trace, gpu_fractions=[0.5]).rows
    assert row.hit_rate == 0.0
    late = trace_of(experts_TLK[::-1].copy(), sequences=4)
    both = trace_of(np.concatenate([first, first]).repeat(LAYERS, axis=0).reshape(80, LAYERS, TOP_K), sequences=4)
    assert made(["static-frequency"], trace=late, gpu_fractions=[0.5]).rows[0].hit_rate == 0.0
    assert made(["static-frequency"], trace=both, gpu_fractions=[0.5]).rows[0].hit_rate == 1.0


def test_a_row_is_what_the_simulator_says():
    """The cell's figures are those of simulate() on the second half, called by hand."""
    trace, shape, machine = random_trace(), geometry(), gallery.machine(MACHINE)
    (row,) = made(["hetsched"], trace=trace, max_tokens=50).rows
    history, scored = split(trace, 0.5)
    budget = int(0.25 * shape.total_expert_bytes)
    scheduler = Scheduler(shape, machine, budget, history=history, clock=ConstantClock(CHARGE_S))
    replayed = simulate(scored, steps_of(scored, max_tokens=50), scheduler)
    assert (row.gpu_bytes, row.step_s) == (budget, replayed.step_s)
    figures = replayed.stats.as_dict()
    for name in ("tokens_per_s", "hit_rate", "bytes_per_token", "wasted_bytes_per_token", "decision_s_per_token"):
        assert getattr(row, name) == figures[name], name
    assert row.decision_s_per_token == pytest.approx(LAYERS * CHARGE_S)
    assert row.tokens_per_s == pytest.approx(1 / row.step_s)


def test_efficiency_compares_the_same_steps():
    """Bound over achieved seconds on the steps of the bound's windows, no others."""
    trace, shape = random_trace(tokens=200), geometry()
    compared = made(["static-frequency"], trace=trace, bound_windows=2)
    history, scored = split(trace, 0.5)
    machine, budget = gallery.machine(MACHINE), int(0.25 * shape.total_expert_bytes)
    steps = steps_of(scored)
    scheduler = Scheduler(
        shape, machine, budget, policy="static-frequency", history=history, clock=ConstantClock(CHARGE_S)
    )
    step_s_S = simulate(scored, steps, scheduler).step_s_S
    bound = clairvoyant_bound(scored, steps, CostModel(machine, shape), shape.slots(budget), max_windows=2)
    assert bound.windows.tolist() == [[0, 16], [80, 96]]
    achieved_s = step_s_S[0:16].sum() + step_s_S[80:96].sum()
    assert compared.rows[0].efficiency == pytest.approx(bound.window_s.sum() / achieved_s)
    assert 0 < compared.rows[0].efficiency <= 1
    kinds = {b.kind: b for b in compared.bounds}
    assert kinds["clairvoyant"].step_s == pytest.approx(bound.step_s)
    assert kinds["all-resident"].step_s <= kinds["clairvoyant"].step_s
    assert (kinds["clairvoyant"].windows, kinds["clairvoyant"].steps) == (2, 32)


def test_ranks_and_clairvoyance():
    """Strategies that see the future are ranked among themselves, and only they see it."""
    compared = made([Seer, Blind, "static-frequency", "cpu-only"], gpu_fractions=[0.5])
    assert compared.is_complete, compared.failures
    ranks = {row.strategy: (row.clairvoyant, row.rank) for row in compared.rows}
    assert ranks["seer"] == (True, 1)
    assert ranks["static-frequency"] == (False, 1)
    by_rank = [row.tokens_per_s for row in compared.rows if not row.clairvoyant]
    assert by_rank == sorted(by_rank, reverse=True)
    assert next(row.family for row in compared.rows if row.strategy == "seer") == "oracles"


def test_every_cell_gets_the_same_bytes():
    compared = made("cpu-only,static-frequency", hardware=[MACHINE, "rtx-4090"], gpu_fractions=[0.1, 0.5])
    assert [key for key, _ in compared.groups()] == [(m, f) for m in (MACHINE, "rtx-4090") for f in (0.1, 0.5)]
    total = geometry().total_expert_bytes
    assert all(row.gpu_bytes == int(row.gpu_fraction * total) for row in compared.rows)


def test_a_fault_costs_its_own_row(capsys):
    """One strategy raises: it is a failure that says why, the others have rows."""
    compared = made([Raises, "cpu-only"])
    assert [row.strategy for row in compared.rows] == ["cpu-only"]
    (failure,) = compared.failures
    assert (failure.what, failure.hardware) == ("raises", MACHINE)
    assert "a fault of its own" in failure.why
    assert "compare_made.py" in failure.where
    assert "where" not in compared.document()["failures"][0]
    compared.print()
    assert "raises" in capsys.readouterr().err


def test_a_bound_that_fails_is_a_note(monkeypatch):
    def fails(*args, **settings):
        raise RuntimeError("no prices")

    monkeypatch.setattr(limits, "clairvoyant_bound", fails)
    compared = made("cpu-only", bound_windows=1)
    assert compared.is_complete
    assert compared.rows[0].efficiency is None
    assert any("no prices" in note for note in compared.facts["notes"])


def test_a_machine_without_gpu():
    """Everything runs on the CPU, so all strategies take the same time; there is nothing to bound."""
    cpu_only = replace(gallery.machine(MACHINE), name="cpu-box", gpu=None, h2d=None, d2h=None)
    compared = made("cpu-only,fiddler,static-frequency", hardware=[cpu_only], bound_windows=2)
    assert compared.is_complete, compared.failures
    assert {row.hit_rate for row in compared.rows} == {0.0}
    assert len({round(row.step_s, 12) for row in compared.rows}) == 1
    assert not compared.bounds
    assert any("nothing to bound" in note for note in compared.facts["notes"])


def test_verify_says_so():
    """Windows of three tokens: a third of the steps, tokens/s counts all tokens, and the note says what was assumed."""
    compared = made("static-frequency", verify=2)
    assert compared.facts["phases"] == {"verify": compared.facts["steps"]}
    assert compared.facts["tokens_scored"] == 60
    assert compared.facts["steps"] == 3 * 7  # three sequences of 20 tokens
    assert any("all drafts accepted" in note for note in compared.facts["notes"])
    row = compared.rows[0]
    assert row.tokens_per_s == pytest.approx(60 / (21 * row.step_s))


def test_measured_decisions_are_counted():
    """With the scheduler's own clock a decision takes some time, for policies replayed fast and for others."""
    compared = made("static-frequency,hetsched", decision_s=None, max_tokens=20)
    assert compared.is_complete, compared.failures
    assert all(row.decision_s_per_token > 0 for row in compared.rows)
    assert compared.facts["decision_charge"] == "measured"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpu_fractions": [1.5]}, "outside 0..1"),
        ({"gpu_fractions": []}, "no GPU fraction"),
        ({"fit_sequences": 1.0}, "fit share"),
        ({"trace": random_trace(sequences=1)}, "one sequence"),
        ({"hardware": []}, "no hardware"),
        ({"hardware": [MACHINE, MACHINE]}, "named twice"),
        ({"decision_s": -1.0}, "decision charge"),
        ({"bound_windows": -1}, "bound_windows"),
        ({"jobs": 0}, "jobs"),
        ({"solver": "nope"}, "unknown solver"),
        ({"solver": "sort"}, "none asks a solver, so sort would change nothing"),
        ({"jobs": 2, "ray": "auto"}, "on a Ray cluster its nodes say how many run at once"),
        ({"verify": 2, "replay": "decode"}, "makes steps of its own"),
        ({"dtype": "bf16"}, "beside a model object"),
        ({"strategies": "nope"}, "unknown policy"),
        ({"strategies": []}, "no strategy"),
        ({"strategies": [Blind, Blind()]}, "two strategies are called 'blind'"),
    ],
)
def test_bad_arguments(settings, message):
    strategies = settings.pop("strategies", "cpu-only") if "strategies" in settings else "cpu-only"
    with pytest.raises(InputError, match=message):
        made(strategies, **settings)


def test_names_of_ones_own():
    """A mapping gives labels, so that two settings of one policy can be compared."""
    compared = made({"one": Blind(), "two": Blind})
    assert {row.strategy for row in compared.rows} == {"one", "two"}


def test_another_model():
    with pytest.raises(InputError, match="name the model that the trace was recorded on"):
        compare(random_trace(), "gpt-oss-20b", hardware=[MACHINE], strategies="cpu-only")
