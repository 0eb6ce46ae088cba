"""sp-moe: what a draft names is copied ahead up to the cut-off; without drafts it is an LRU cache. Emulated drafts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import hetsched
from hetsched.board import COPY_S, FLYING, PREDICTED_S, RESIDENT, TOKENS, new_board, open_board
from hetsched.engine.sight import Sight
from hetsched.errors import InputError
from hetsched.forecast import NOTHING, Context, tell, traits
from hetsched.forecast.draft_names import DraftNames
from hetsched.forecast.emulated_draft import EmulatedDraft
from hetsched.forecast.fed import Fed, Replayed, configured
from hetsched.machine.gallery import machine
from hetsched.policies.lru import OnDemandLru
from hetsched.policies.sp_moe import SpMoe
from hetsched.policies.sp_moe_kernels import CUT_OFF, LAYER_S, cut_off, first_numbers
from hetsched.replay import compare
from hetsched.replay.simulator import ConstantClock, simulate
from hetsched.replay.steps import steps_of
from hetsched.scheduler import Scheduler
from hetsched.testing.policies import HARDWARE, LAWS, SHAPE, Make, demanded
from hetsched.traces.trace import RoutingTrace
from hetsched.types import Demand, ExpertId, Fetch, Float32Array, Lane, LinkState, Outcome, Phase, Plan
from tests.conftest import tiny_moe
from tests.replay.compare_made import MACHINE


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_laws(law: Callable[[Make], None]) -> None:
    law(SpMoe)


class Drafter:
    """Contexts that give one draft with a step's last layer: the same experts in every layer."""

    gives = frozenset({"draft"})

    def __init__(self, *experts: int) -> None:
        self.draft_DLE: Float32Array = np.zeros((2, SHAPE.num_layers, SHAPE.num_experts), np.float32)
        self.draft_DLE[:, :, list(experts)] = 0.2

    def of(self, demand: Demand) -> Context:
        return Context(draft_DLE=self.draft_DLE) if demand.layer == SHAPE.num_layers - 1 else NOTHING


class Asked:
    """A scheduler whose copies arrive two layers later; a layer takes a millisecond."""

    def __init__(self, policy: Any, slots: int, contexts: Any = None, layer_s: float = 1e-3) -> None:
        size = slots * SHAPE.expert_bytes
        self.made = Scheduler(SHAPE, machine(HARDWARE), size, policy=policy, contexts=contexts, clock=lambda: 0.0)
        self.layer_s = layer_s

    def ask(self, layer: int, *experts: int, flying: tuple[ExpertId, ...] = ()) -> tuple[Plan, tuple[Fetch, ...]]:
        made, tokens_E = self.made, np.bincount(experts, minlength=SHAPE.num_experts)
        arrived = tuple(expert for expert in made.residency.copying() if expert not in flying)
        link = LinkState(0.0, arrived, tuple((expert, 1e-4 * (i + 1)) for i, expert in enumerate(flying)))
        plan = made.step(made.demand(layer, tokens_E, 2, Phase.VERIFY), link)
        copies = made.prefetch(link._replace(arrived=())).fetches
        made.observe(Outcome(plan, self.layer_s, plan.predicted_s))
        return plan, copies

    def step(self, *experts: int) -> list[tuple[Plan, tuple[Fetch, ...]]]:
        return [self.ask(layer, *experts) for layer in range(SHAPE.num_layers)]


def test_without_drafts_it_is_lru() -> None:
    """The same plans, demand for demand, where nobody drafts and where nothing is drafted."""
    trace, steps = demanded(40, 2), None
    for contexts in (None, Replayed(demanded(40, 2))):
        found = []
        for policy in (SpMoe(), OnDemandLru()):
            clock, given = ConstantClock(20e-6), contexts if isinstance(policy, SpMoe) else None
            size = 13 * SHAPE.expert_bytes
            made = Scheduler(SHAPE, machine(HARDWARE), size, policy=policy, clock=clock, contexts=given)
            steps = steps_of(trace, mode="recorded")
            found.append(simulate(trace, steps, made))
        assert found[0].stats.prefetches == 0
        assert found[0].step_s_S == pytest.approx(found[1].step_s_S, rel=1e-12)
        assert (found[0].counts_SC == found[1].counts_SC).all()


def test_the_draft_is_copied_layer_by_layer_and_kept() -> None:
    """Enough time: all layers, the first layer's experts first; they stay until their layer has run."""
    asked = Asked(SpMoe(), 16, Drafter(7, 9), layer_s=1.0)
    *before, last = asked.step(1, 2)
    assert not any(copies for _, copies in before)
    named = [ExpertId(layer, e) for layer in range(SHAPE.num_layers) for e in (7, 9)]
    assert [fetch.expert for fetch in last[1]] == named
    assert all(fetch.prefetch for fetch in last[1])
    for plan, _ in asked.step(7, 9):
        assert not plan.fetches
        assert {run.lane for run in plan.runs} == {Lane.GPU}


def test_the_least_recently_used_give_way_and_nobody_who_is_named() -> None:
    asked = Asked(SpMoe(), 8, Drafter(7, 1), layer_s=1.0)
    last = asked.step(1, 2)[-1][1]
    assert [fetch.expert for fetch in last] == [ExpertId(layer, 7) for layer in range(3)]
    assert [fetch.victim for fetch in last] == [ExpertId(layer, 2) for layer in range(3)]  # of layer 3's, one is active


@pytest.mark.parametrize(
    ("rest_s", "drafting_s", "layer_s", "last"),
    [
        (1.9, 0.0, 0.0, -1),
        (2.0, 0.0, 0.0, 0),
        (1.0, 1.0, 0.0, 0),
        (0.5, 3.5, 0.0, 1),
        (1.0, 0.0, 2.0, -1),
        (2.0, 0.0, 1.0, 0),
        (2.0, 0.0, 2.0, 3),
        (0.0, 0.0, 3.0, 3),
        (0.0, 4.0, 1.0, 2),
    ],
)
def test_the_cut_off_is_the_last_layer_that_copies_can_be_in_time_for(
    rest_s: float, drafting_s: float, layer_s: float, last: int
) -> None:
    """Two are named in each of four layers, copies take 1 s: by layer l, due at rest + drafting + l * layer, 2 * l + 2.

    With half a second more in the link nothing that was just in time is.
    """
    board = open_board(*new_board(SHAPE.num_layers, SHAPE.num_experts, 8))
    next_LE, seconds_4T = np.zeros((SHAPE.num_layers, SHAPE.num_experts)), np.zeros((4, 3))
    next_LE[:, [7, 9]] = 1.0
    board.machine[COPY_S], board.now[PREDICTED_S], board.at[TOKENS] = 1.0, rest_s, 2
    numbers = first_numbers(drafting_s, 16, SHAPE.num_layers)
    numbers[LAYER_S] = layer_s
    found = cut_off(board, seconds_4T, next_LE, numbers)
    due_s = [rest_s + drafting_s + layer * layer_s for layer in range(4)]
    assert found == max([layer for layer in range(4) if 2 * layer + 2 <= due_s[layer]], default=-1) == last
    board.at[FLYING], board.left_s_F[0] = 1, 100.0
    assert cut_off(board, seconds_4T, next_LE, numbers) == -1
    board.state_F[:] = RESIDENT
    board.at[FLYING] = 0
    assert cut_off(board, seconds_4T, next_LE, numbers) == 3  # nothing has to be copied


def test_beyond_the_cut_off_nothing_is_copied() -> None:
    asked = Asked(SpMoe(), 24, Drafter(7, 9), layer_s=0.0)
    copies = asked.step(1, 2)[-1][1]
    last = int(asked.made.policy._more[1][CUT_OFF])  # type: ignore[attr-defined]
    assert -1 <= last < SHAPE.num_layers - 1
    assert {fetch.expert.layer for fetch in copies} == set(range(last + 1))


def test_what_is_on_its_way_is_waited_for() -> None:
    asked = Asked(SpMoe(), 16, Drafter(7, 9), layer_s=1.0)
    asked.step(1, 2)
    plan, _ = asked.ask(0, 3, 7, flying=(ExpertId(0, 7),))
    assert {(run.expert.expert, run.lane, run.cause) for run in plan.runs} == {
        (7, Lane.GPU, "in flight"),
        (3, Lane.GPU, "fetched"),
    }
    assert [fetch.expert for fetch in plan.fetches] == [ExpertId(0, 3)]
    assert plan.predicted_s > 1e-4


def verified(tokens: int, per_step: int) -> RoutingTrace:
    """Verify steps of one length, two sequences, numbered."""
    trace = demanded(400, 3)
    first = replace(trace, experts_TLK=trace.experts_TLK[:tokens], sequence_T=trace.sequence_T[:tokens].copy())
    first.sequence_T[tokens // 2 :] = 1
    step_T = (np.arange(tokens) // per_step).astype(np.int32)
    return replace(first, phase_T=np.full(tokens, Phase.VERIFY, np.uint8), step_T=step_T)


@pytest.mark.parametrize("accuracy", [0.0, 0.6, 1.0])
def test_an_emulated_draft_is_as_accurate_as_is_said(accuracy: float) -> None:
    trace = verified(400, 5)
    draft, right, named = EmulatedDraft(trace, accuracy), 0.0, 0
    for step in range(79):
        draft_DLE = draft.after(step)
        if step == 39:  # the next step is another text's
            assert draft_DLE is None
            continue
        assert draft_DLE is not None
        assert np.array_equal(draft_DLE, draft.after(step))  # the same again
        true_DLK = trace.experts_TLK[5 * step + 5 : 5 * step + 10].astype(np.int64)
        right += (np.take_along_axis(draft_DLE, true_DLK, axis=2) > 0).sum()
        named += true_DLK.size
    by_chance = 1 / (SHAPE.num_experts - 1) * (SHAPE.top_k - 1)  # a wrong one is another of the token's own
    assert accuracy - 0.03 <= right / named <= accuracy + (1 - accuracy) * by_chance + 0.03
    assert draft.after(79) is None


def test_only_verify_steps_are_drafted() -> None:
    trace = verified(40, 5)
    assert EmulatedDraft(trace, 1.0).after(0) is not None
    decoded = replace(trace, phase_T=np.full(40, Phase.DECODE, np.uint8))
    assert not EmulatedDraft(decoded, 1.0).gives
    assert not EmulatedDraft(replace(trace, step_T=None), 1.0).gives
    mixed = replace(trace, phase_T=np.repeat(np.array([2, 1, 2, 1, 2, 1, 2, 1], np.uint8), 5))
    assert [EmulatedDraft(mixed, 1.0).after(step) is not None for step in range(3)] == [False, True, False]


def test_a_replay_gives_drafts_with_the_last_layer_to_who_takes_them() -> None:
    trace = verified(40, 5)
    fed = configured(DraftNames(), Replayed(trace, draft_accuracy=1.0))
    assert isinstance(fed, Fed)
    fed.start(SHAPE)
    for layer in range(SHAPE.num_layers):
        assert not fed.next_LE().any()
        fed.observe(Demand(0, layer, Phase.VERIFY, trace.demand_LE(slice(0, 5))[layer], 5))
    assert (fed.next_LE() == (trace.demand_LE(slice(5, 10)) > 0)).all()
    fed.observe(Demand(1, 0, Phase.VERIFY, trace.demand_LE(slice(5, 10))[0], 5))
    assert not fed.next_LE()[0].any()
    assert fed.next_LE()[1].any()
    assert isinstance(configured(DraftNames(), Replayed(trace)), DraftNames)  # nobody drafts: it does without


def test_who_takes_a_context_is_told_it_and_needs_none() -> None:
    assert traits(DraftNames).takes == {"draft"}
    assert not traits(DraftNames).needs
    names = DraftNames()
    names.start(SHAPE)
    demand = Demand(0, 3, Phase.VERIFY, np.bincount([1], minlength=SHAPE.num_experts), 2)
    tell(names, demand, Drafter(4, 5).of(demand))
    assert names.next_LE().sum() == 2 * SHAPE.num_layers
    names.observe(demand)
    assert names.next_LE().sum() == 2 * (SHAPE.num_layers - 1)


def test_in_a_comparison_better_drafts_hit_more() -> None:
    trace = replace(demanded(400, 3), step_T=None)
    found = compare(
        replace(trace, phase_T=np.ones(trace.num_tokens, np.uint8)),
        SHAPE,
        hardware=(HARDWARE,),
        gpu_fractions=(0.5,),
        strategies="on-demand-lru,hetsched.policies.sp_moe:SpMoe+draft_accuracy=0.1,"
        "hetsched.policies.sp_moe:SpMoe+draft_accuracy=1",
        decision_s=2e-5,
        fit_sequences=0.0,
        bound_windows=0,
        verify=2,
    )
    hits = {row.strategy: row.hit_rate for row in found.rows}
    assert hits["on-demand-lru"] < hits["sp-moe+draft_accuracy=1"]
    assert hits["sp-moe+draft_accuracy=0.1"] < hits["sp-moe+draft_accuracy=1"]
    assert any("share of them wrong" in row.stand_in for row in found.rows)


def test_draft_gate_replays_verify_steps_and_no_others() -> None:
    trace = replace(demanded(60, 3), step_T=None)
    asked: dict[str, Any] = {
        "hardware": (HARDWARE,),
        "gpu_fractions": (0.5,),
        "strategies": "hetsched",
        "decision_s": 2e-5,
    }
    asked |= {"fit_sequences": 0.0, "bound_windows": 0, "forecaster": "draft-gate"}
    decoding = replace(trace, phase_T=np.ones(trace.num_tokens, np.uint8))
    assert compare(decoding, SHAPE, verify=2, **asked).rows[0].tokens_per_s > 0
    refused = compare(decoding, SHAPE, **asked)
    assert not refused.rows
    assert "draft-gate needs draft" in str(refused.failures[0])


@pytest.mark.parametrize("is_drafting", [False, True])
def test_in_an_engine_it_generates_the_same_tokens(is_drafting: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody drafts nothing is prefetched; where a draft is seen, what it names is."""

    def of(sight: Sight, demand: Demand) -> Context:
        """One drafted token, which the routers of all layers send to the first experts."""
        if demand.layer < layers - 1:
            return NOTHING
        draft_DLE = np.zeros((1, layers, demand.num_experts), np.float32)
        draft_DLE[:, :, : model.config.num_experts_per_tok] = 0.3
        return Context(draft_DLE=draft_DLE)

    model = tiny_moe()
    greedy: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    prompt = torch.arange(3, 15)[None]
    expected, layers = model.generate(prompt, **greedy), model.config.num_hidden_layers
    if is_drafting:
        monkeypatch.setattr(Sight, "gives", Sight.gives | {"draft"})
        monkeypatch.setattr(Sight, "of", of)
    policy = SpMoe(drafting_s=1.0)
    with hetsched.attach(model, hardware=MACHINE, gpu_memory="50%", time_scale=1.0, policy=policy) as handle:
        found, stats = model.generate(prompt, **greedy), handle.stats()
    assert found.tolist() == expected.tolist()
    assert (stats["prefetches"] > 0) == is_drafting
    assert not stats["faults"]


@pytest.mark.parametrize("wrong", [{"drafting_s": -1.0}, {"draft_accuracy": 1.5}, {"draft_accuracy": -0.1}])
def test_arguments_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must"):
        SpMoe(**wrong)
