"""Drafts as a sensor: what is known of a verify step's tokens before it begins starts copies. Emulated machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hetsched
from hetsched.errors import InputError
from hetsched.forecast.draft_gate import DraftGate
from hetsched.forecast.ewma import Ewma
from hetsched.integrations.draft_sensor import sensor_of
from hetsched.policies.sp_moe import SpMoe
from hetsched.residency import State
from hetsched.speculation.cut_off import last_in_time
from hetsched.testing.models import tiny_moe
from hetsched.types import Copies, Demand, FloatArray, Phase
from tests.generation.generating import EMULATED, HERE
from tests.speculation.test_generate import qwen3, text

SENSED: dict[str, Any] = {**EMULATED, "policy": "hetsched", "forecaster": DraftGate}
SP_MOE: dict[str, Any] = {**EMULATED, "policy": SpMoe}


class Step(NamedTuple):
    """A verify step: drafts told before it, copies chosen for them, and of each layer what came and what was said."""

    told: list[Any]
    copies: list[Copies]
    layers: list[tuple[list[int], FloatArray]]
    present: list[bool]  # of those copies' experts, at the first layer


@contextlib.contextmanager
def watched(handle: Any, forecaster: Any = None) -> Iterator[list[Step]]:
    """Every verify step; `forecaster`: another whose forecasts are noted, which observes what the engine's does."""
    seen: list[Step] = []
    scheduler, asked = handle.scheduler, forecaster or handle.scheduler.forecaster
    foresee, step = scheduler.foresee, scheduler.step
    told: list[Any] = []
    copies: list[Copies] = []

    def foreseen(draft_DLE: Any, link: Any) -> Copies:
        told.append(draft_DLE.copy())
        copies.append(foresee(draft_DLE, link))
        return copies[-1]

    def stepped(demand: Demand, link: Any) -> Any:
        if demand.phase is Phase.VERIFY:
            if demand.layer == 0:
                there = [scheduler.residency.state(f.expert) is not State.ABSENT for c in copies for f in c.fetches]
                seen.append(Step(told.copy(), copies.copy(), [], there))
                told.clear()
                copies.clear()
            seen[-1].layers.append((demand.active, asked.next_LE()[demand.layer].copy()))
        return step(demand, link)

    scheduler.foresee, scheduler.step = foreseen, stepped
    yield seen
    scheduler.foresee, scheduler.step = foresee, step


def recall(steps: list[Step]) -> float:
    """Of the experts that verify steps asked for, the share among as many that were likeliest before."""
    found = asked = 0
    for active, said_E in (layer for step in steps for layer in step.layers):
        found += len(set(active) & set(np.argsort(-said_E, kind="stable")[: len(active)].tolist()))
        asked += len(active)
    return found / asked


@pytest.mark.parametrize("build", [tiny_moe, qwen3])
@pytest.mark.parametrize("options", [SENSED, SP_MOE], ids=["hetsched", "sp-moe"])
def test_tokens_are_the_same_whoever_drafts(build: Callable[[], Any], options: dict[str, Any]) -> None:
    model = build()
    tokens, _ = text(model)
    with hetsched.attach(model, **options) as handle, watched(handle) as seen:
        for draft in ("self", "prompt-lookup", tiny_moe(layers=2)):
            for k in (3, "auto"):
                with handle.speculate(draft, k):
                    assert text(model)[0] == tokens
            handle.scheduler.residency.check()
        assert text(model)[0] == tokens
        assert not handle.stats()["faults"]
    assert sum(bool(step.told) for step in seen) > 5


def test_a_model_that_drafts_for_itself_knows_what_it_will_ask_for() -> None:
    """Far better than the running mean of the same steps; both are asked for as many experts as came."""
    found = {}
    for name, make in (("sensed", DraftGate), ("mean", Ewma)):
        model = tiny_moe(experts=32)
        with (
            hetsched.attach(model, **{**SENSED, "forecaster": make}) as handle,
            watched(handle) as seen,
            handle.speculate("self", 3),
        ):
            text(model, max_new_tokens=40)
        found[name] = recall(seen[4:])
        assert all(bool(step.told) == (name == "sensed") for step in seen)
    assert found["sensed"] > found["mean"] + 0.15, found


def test_copies_are_under_way_before_the_first_layer() -> None:
    """More is told after each draft pass; of the last draft there was none."""
    model = tiny_moe(experts=32)
    with hetsched.attach(model, **SENSED) as handle, watched(handle) as seen, handle.speculate("self", 3):
        text(model, max_new_tokens=20)
    whole = [step for step in seen if step.told[-1].shape[0] == 4]
    assert len(whole) > 3
    for step in whole:
        known = [(told_DLE.max(axis=2) > 0).all(axis=1).tolist() for told_DLE in step.told]
        assert known == [[i < made for i in range(4)] for made in (1, 2, 3)]
    assert sum(len(step.present) for step in seen) > len(seen), "at least a copy a step, on average"
    assert all(all(step.present) for step in seen)
    assert all(fetch.prefetch for step in seen for copies in step.copies for fetch in copies.fetches)


def test_a_forecaster_is_told_of_drafts_once() -> None:
    """Draft passes are no text's demand: those that are told of by foresee are not observed."""
    model, observed = tiny_moe(), list[tuple[Phase, int]]()

    class Noting(DraftGate):
        def observe(self, demand: Demand, *context: Any) -> None:
            observed.append((demand.phase, demand.num_tokens))
            super().observe(demand, *context)

    with hetsched.attach(model, **{**SENSED, "forecaster": Noting}) as handle, handle.speculate("self", 3) as drafted:
        text(model)
    facts = drafted.stats()
    without = facts["steps"] - round(facts["go_share"] * facts["steps"])
    assert observed.count((Phase.DECODE, 1)) <= 3 * without < 3 * facts["drafted"]  # three layers
    assert observed.count((Phase.VERIFY, 4)) > 3


def test_embeddings_are_asked_about_up_to_the_cut_off() -> None:
    """Where somebody else drafts: every token of the step, in the first layers and in no other."""
    model = tiny_moe(layers=4)
    with hetsched.attach(model, **SENSED) as handle:
        sensor: Any = sensor_of(handle, model, sees_passes=False)
        told: list[Any] = []
        sensor._engine = type("Told", (), {"foresee": lambda _, draft_DLE, begun_s: told.append(draft_DLE)})()
        sensor._cut_off = lambda tokens: 1
        sensor.tell([5, 6, 7])
        embedded_TH = model.get_input_embeddings().weight[[5, 6, 7]].detach().float()
        plain_TH = embedded_TH / embedded_TH.square().mean(dim=1, keepdim=True).sqrt()
        for layer, block in enumerate(model.model.layers[:2]):
            gain_H = block.post_attention_layernorm.weight.detach().float()
            logits_TE = (plain_TH * gain_H) @ block.mlp.gate.weight.detach().float().T
            np.testing.assert_allclose(told[0][:, layer], logits_TE.softmax(-1).numpy(), rtol=1e-3)
        assert not told[0][:, 2:].any()


@given(
    st.lists(st.floats(0, 4), min_size=1, max_size=6),
    st.floats(0.1, 2),
    st.floats(0, 3),
    st.floats(0, 5),
    st.floats(0, 5),
)
def test_the_cut_off_is_the_last_layer_in_time(
    missing_L: list[float], copy_s: float, link_s: float, due_s: float, layer_s: float
) -> None:
    found, sums_L = last_in_time(np.array(missing_L), copy_s, link_s, due_s, layer_s), np.cumsum(missing_L)
    slack_L = due_s + layer_s * np.arange(len(missing_L)) - link_s - copy_s * sums_L
    if (np.abs(slack_L) > 1e-9).all():
        assert found == max(np.flatnonzero(slack_L > 0).tolist(), default=-1)


def test_nobody_is_told_where_nobody_asks() -> None:
    """Another forecaster, and a machine without a GPU; drafts work as ever."""
    for options in ({**SENSED, "forecaster": "transition"}, HERE):
        model = tiny_moe()
        with hetsched.attach(model, **options) as handle:
            assert not handle.scheduler.can_foresee
            assert sensor_of(handle, model, sees_passes=True) is None
            assert handle.scheduler.foresee(np.ones((2, 3, 8), np.float32)) == Copies()
            with handle.speculate("self", 2):
                text(model)


def test_what_cannot_be_asked_is_one_line() -> None:
    model = tiny_moe()
    with hetsched.attach(model, **SENSED) as handle:
        engine: Any = handle.engine
        with pytest.raises(InputError, match=r"draft of shape \(2, 3, 9\) .* must be \(tokens, 3, 8\)"):
            engine.foresee(np.ones((2, 3, 9), np.float32))
        model.get_input_embeddings = lambda: torch.nn.Identity()
        with pytest.raises(InputError, match=r"no table of embeddings.*draft with 'self'"):
            handle.speculate("prompt-lookup", 2)
        handle.speculate("self", 2)
        text(model)
