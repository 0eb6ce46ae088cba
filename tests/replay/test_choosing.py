"""Replays whose drafts are chosen before every step: the same as derived traces where the choice is, and told truly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hetsched.machine.gallery import machine
from hetsched.replay import AUTO, Speculation, compare_speculation
from hetsched.replay.choosing import Drafted, simulate_choosing
from hetsched.replay.simulator import ConstantClock, Replay, simulate
from hetsched.replay.steps import steps_of
from hetsched.scheduler import Scheduler
from hetsched.traces.speculative import Acceptance, Guesses, speculate
from hetsched.traces.trace import RoutingTrace
from hetsched.types import Phase
from tests.replay.compare_made import MACHINE, geometry, random_trace

CHARGE_S = 2e-5
KIND = Acceptance((0.8, 0.6), 0.2, 3)


class Says:
    """A chooser with its answers written down; it notes what it is told."""

    def __init__(self, *drafts: int) -> None:
        self.drafts, self.calls = drafts, 0
        self.told: list[tuple[int, int, float, float, int | None]] = []
        self.shown: list[tuple[int, float, float]] = []

    def choose(self) -> int:
        self.calls += 1
        return self.drafts[(self.calls - 1) % len(self.drafts)]

    def observe(self, drafted: int, accepted: int, step_s: float, draft_s: float, asked: int | None = None) -> None:
        self.told.append((drafted, accepted, step_s, draft_s, asked))

    def show(self, tokens: int, active: float, hits: float) -> None:
        self.shown.append((tokens, active, hits))


def scheduler(policy: str) -> Scheduler:
    shape = geometry()
    room = int(0.3 * shape.total_expert_bytes)
    return Scheduler(shape, machine(MACHINE), room, policy=policy, clock=ConstantClock(CHARGE_S))


def chosen(text: RoutingTrace, chooser: Any, policy: str = "layer-split", token_s: float = 0.0) -> Replay:
    drafted = Drafted(Guesses(text, KIND), chooser, token_s)
    return simulate_choosing(text, steps_of(text), drafted, scheduler(policy))


def prompted() -> RoutingTrace:
    """Six sequences of 20 tokens, the first 5 of each a prompt."""
    trace = random_trace()
    trace.phase_T[np.arange(trace.num_tokens) % 20 < 5] = Phase.PREFILL
    return trace


@pytest.mark.parametrize("policy", ["layer-split", "on-demand-lru", "moe-infinity"])
@pytest.mark.parametrize("drafts", [0, 3])
@pytest.mark.parametrize("text", [random_trace(), prompted()], ids=["decode", "prompts"])
def test_one_choice_for_all_steps_is_the_derived_trace(text: RoutingTrace, drafts: int, policy: str) -> None:
    """Seconds, counts and figures of every step, whatever replays the trace."""
    verified = speculate(text, drafts, KIND)
    steps = steps_of(verified).with_drafting(0.001)
    planned = simulate(verified, steps, scheduler(policy))
    found = chosen(text, Says(drafts), policy, token_s=0.001)
    np.testing.assert_allclose(found.step_s_S, planned.step_s_S, rtol=1e-12)
    np.testing.assert_array_equal(found.counts_SC, planned.counts_SC)
    assert found.drafting == planned.drafting
    assert found.stats.tokens_per_s == pytest.approx(planned.stats.tokens_per_s)
    assert found.stats.tokens == text.num_tokens


def test_the_chooser_is_told_what_came_of_it() -> None:
    """Drafts made and kept, seconds, what could be had near a sequence's end, and the experts of a step."""
    text, says = random_trace(tokens=40, sequences=2), Says(2, 0, 5)
    found = chosen(text, says, token_s=0.01)
    assert len(says.told) == len(found.step_s_S) == says.calls
    token = 0
    for i, (drafted, accepted, step_s, draft_s, asked) in enumerate(says.told):
        wanted = (2, 0, 5)[i % 3]
        assert asked == drafted == min(wanted, 19 - token % 20)
        assert accepted <= drafted
        assert draft_s == pytest.approx(0.01 * drafted)
        assert step_s + draft_s == pytest.approx(found.step_s_S[i])
        tokens, active, hits = says.shown[i]
        assert tokens == drafted + 1
        assert 0 <= hits <= active <= geometry().num_experts
        token += 1 + accepted
    assert token == 40


def test_auto_in_a_comparison() -> None:
    """hetsched chooses for itself, others do not; who sees the future cannot, and says why."""
    given: dict[str, Any] = {"hardware": [MACHINE], "decision_s": CHARGE_S, "speculation": Speculation(KIND, k_max=4)}
    compared = compare_speculation(
        random_trace(), geometry(), drafts=(2, AUTO), strategies="layer-split,belady", **given
    )
    ran = {(row.system, row.drafts) for row in compared.rows}
    assert ("llama.cpp, speculating", "2") in ran
    assert ("llama.cpp, speculating", "auto") not in ran
    (failure,) = compared.failures
    assert failure.what == "belady, speculating with auto drafts (bf16)"
    assert "sees the future" in failure.why
    others = compare_speculation(random_trace(), geometry(), drafts=(AUTO,), strategies="fiddler", **given)
    (auto,) = [row for row in others.rows if row.drafts == "auto"]
    assert 0 <= auto.mean_k <= 4
    assert auto.tokens_per_s > 0
