"""A replay whose verify steps are made while it runs: how many tokens to draft is chosen before every step.

The guesses are those of the derived traces (traces/speculative.py), so that a controller that always says K replays
what the trace with K drafts does. Step by step in Python, around the calls that a model's engine makes.

Shapes: S steps, N inputs of a step, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np

from ..board import COUNTS, N_ACTIVE, N_HITS
from ..scheduler import Scheduler
from ..traces.speculative import Guesses, Verify
from ..traces.trace import RoutingTrace
from ..types import Demand, IntArray, Phase
from .simulator import Progress, Replay, check_shape, replayed, run_step, step_demands
from .steps import Steps, new_requests
from .timeline import Timeline
from .truth import TrueHardware, true_spans


class Chooser(Protocol):
    """Who says how many tokens to draft: speculation.controller.Controller, or anything that is asked as it is."""

    def choose(self) -> int:
        """Drafts to ask for before the next step."""
        ...

    def observe(self, drafted: int, accepted: int, step_s: float, draft_s: float, asked: int | None = None) -> None:
        """What came of it; `asked`: drafts that could be had, where that is not what was chosen."""
        ...

    def show(self, tokens: int, active: float, hits: float) -> None:
        """Experts active, and there at demand, in a step of so many tokens, a layer on average."""
        ...


class Drafted(NamedTuple):
    """What the drafts are, who says how many, and what each takes."""

    guesses: Guesses
    chooser: Chooser
    token_s: float = 0.0


class _Ran(NamedTuple):
    """One step that was run: its inputs, how many stayed, its seconds, and the board's counts after it.

    `new`: it is the first of a sequence.
    """

    phase: Phase
    new: bool
    tokens: int
    kept: int
    step_s: float
    counts_C: IntArray


def simulate_choosing(
    text: RoutingTrace,
    steps: Steps,
    drafted: Drafted,
    scheduler: Scheduler,
    progress: Progress | None = None,
    host_s: float = 0.0,
    true_hardware: TrueHardware | None = None,
) -> Replay:
    """Replay a text: prompts in the `steps` given, the rest in verify steps. Other arguments as for simulate().

    `steps`: of the text token by token. The chooser is told of every step but prompts.
    """
    shape = scheduler.geometry
    check_shape(text, shape.num_layers, shape.num_experts, shape.name)
    spans, ran = true_spans(scheduler.cost, true_hardware), list[_Ran]()
    costs = dict(spans)
    cost, timeline = spans[0].cost, Timeline(spans[0].cost, scheduler.cost)
    for asked, verify, token, phase, new in _steps(text, steps, drafted):
        cost_now = costs.get(len(ran), cost)
        if cost_now is not cost:
            cost = cost_now
            timeline.change(cost)
        layers = _demands(text, verify, len(ran), phase, new, scheduler.traits.uses_weights)
        step_s, count = run_step(layers, scheduler, timeline, cost, host_s), len(verify.rows_NL)
        before_C = ran[-1].counts_C if ran else np.zeros(COUNTS, np.int64)
        ran.append(_Ran(phase, new, count, verify.kept, step_s, scheduler.board.counts.copy()))
        if phase is not Phase.PREFILL:
            seen_C = (ran[-1].counts_C - before_C) / shape.num_layers
            drafted.chooser.show(count, float(seen_C[N_ACTIVE]), float(seen_C[N_HITS]))
            told = count - 1, verify.kept - 1, step_s, (count - 1) * drafted.token_s
            drafted.chooser.observe(*told, asked=asked)
        if progress is not None and len(ran) % 64 == 0:
            progress(token, text.num_tokens)
    counts_SC = np.array([step.counts_C for step in ran]).reshape(-1, COUNTS)
    step_s_S, new_S = np.array([step.step_s for step in ran]), np.array([step.new for step in ran], np.bool_)
    return replayed(_as_steps(ran, drafted.token_s), new_S, scheduler, step_s_S, counts_SC)


def _steps(text: RoutingTrace, steps: Steps, drafted: Drafted) -> Iterator[tuple[int, Verify, int, Phase, bool]]:
    """Drafts that could be had, the step, its first token, its phase, and whether a request begins with it."""
    begins, new_S = steps.begin_S.tolist(), new_requests(text, steps)
    token = s = 0
    while token < text.num_tokens:
        while begins[s] < token:
            s += 1
        if steps.phase_S[s] == Phase.PREFILL:
            end = int(steps.end_S[s])
            rows_NL = np.repeat(np.arange(token, end)[:, None], text.num_layers, axis=1)
            yield 0, Verify(rows_NL, end - token), token, Phase.PREFILL, bool(new_S[s])
            token = end
            continue
        asked = min(drafted.chooser.choose(), drafted.guesses.most(token))
        verify = drafted.guesses.step(token, asked)
        yield asked, verify, token, Phase.VERIFY if len(verify.rows_NL) > 1 else Phase.DECODE, bool(new_S[s])
        token += verify.kept


def _demands(text: RoutingTrace, verify: Verify, step: int, phase: Phase, new: bool, weighted: bool) -> list[Demand]:
    """The demands of one step, layer by layer."""
    taken = verify.rows_NL, np.arange(text.num_layers)
    weights_NLK = None if text.weights_TLK is None or not weighted else text.weights_TLK[taken]
    part = replace(text, experts_TLK=text.experts_TLK[taken], weights_TLK=weights_NLK)
    return step_demands(part, 0, len(verify.rows_NL), step, phase, new, weighted=weighted)


def _as_steps(ran: list[_Ran], token_s: float) -> Steps:
    """The steps as those of a trace that holds all their inputs one after another."""
    tokens_S = np.array([step.tokens for step in ran], np.int64)
    end_S = np.cumsum(tokens_S)
    phase_S = np.array([step.phase for step in ran], np.uint8)
    rejected_S = tokens_S - np.array([step.kept for step in ran], np.int64)
    return Steps(end_S - tokens_S, end_S, phase_S, rejected_S=rejected_S).with_drafting(token_s)
