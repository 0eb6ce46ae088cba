"""Speeds of a placement in one case, and their range over all that is not known. Estimated, never measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..cost.attention import attention_s
from ..estimate import Engine, Placement, Times, decode, hit_share, prefill, speculate
from ..estimate.decode import step
from ..machine.profile import HardwareProfile
from ..memory.plan import MemoryPlan
from ..speculation.union import ExpertUnion
from .memory import UBATCH, hot_share, layers_on_cpu, memory_of
from .model import LLAMA_CPP
from .question import Question
from .spread import Case, Unknown, cases, engine_in, machine_in, unknowns

STEPS = 8  # of the share of experts on the GPU, between which times are interpolated


class Range(NamedTuple):
    """Tokens a second. None where a plan does not fit, and nothing runs."""

    low: float | None
    expected: float | None
    high: float | None


NOTHING = Range(None, None, None)


class Dependence(NamedTuple):
    """What an unknown alone does to decoding: tokens a second at its low and its high end."""

    unknown: Unknown
    low: float
    high: float


@dataclass(frozen=True)
class Outlook:
    """`decode`, `prefill`: tokens a second, of all sequences together. `times`: of a decoded token as expected.

    `hit`: the share of the demand that the GPU's experts meet.
    """

    decode: Range
    prefill: Range
    times: Times
    placement: Placement
    depends_on: list[Dependence]
    hit: Range


def outlook_of(question: Question, memory: MemoryPlan, skew: float | None = None) -> Outlook:
    """The speeds of what was planned. `skew`: as a trace told it; with all experts in one place, it is no matter."""
    expected = Case() if skew is None else Case(skew=skew)
    is_settled = question.profile.gpu is None or memory.slots >= memory.experts
    settled = expected.skew if is_settled else skew
    found = unknowns(question.profile, question.engine, question.context, settled)
    low, high = cases(found, expected)
    times = decode_times(question, memory, expected)
    alone = [_dependence(question, memory, unknown, expected, times) for unknown in found]
    ends = [decode_times(question, memory, case) for case in (low, high)]
    prompts = [prefill_times(question, memory, case) for case in (low, expected, high)]
    return Outlook(
        decode=_range(times, ends, alone),
        prefill=_range(prompts[1], prompts),
        times=times,
        placement=placement_of(question, memory, expected),
        depends_on=alone,
        hit=Range(*(_hit(question, memory, case) for case in (low, expected, high))),
    )


def expected_speeds(question: Question, skew: float | None = None) -> tuple[float, float] | None:
    """Decoded and prompt tokens a second as expected; None where it does not fit."""
    memory = memory_of(question)
    if not memory.fits:
        return None
    case = Case() if skew is None else Case(skew=skew)
    return decode_times(question, memory, case).tokens_per_s, prefill_times(question, memory, case).tokens_per_s


def placement_of(question: Question, memory: MemoryPlan, case: Case) -> Placement:
    """Where the experts are: layer by layer under llama.cpp, else the hottest of each layer on the GPU."""
    geometry = question.subject.geometry
    if question.profile.gpu is None:
        return Placement.split(geometry.num_layers)
    if question.engine.name == LLAMA_CPP:
        share = hot_share(question, memory) if question.hot else 0.0
        return _hottest(geometry.num_experts, share, case.skew) if share else Placement.split(layers_on_cpu(question))
    if memory.slots >= memory.experts:
        return Placement()
    return _hottest(geometry.num_experts, memory.expert_share, case.skew)


def decode_times(question: Question, memory: MemoryPlan, case: Case) -> Times:
    """Seconds of one token in this case, all sequences' together."""
    machine, engine = machine_in(case, question.profile), engine_in(case, question.engine)
    context = int(case.filled * question.context)
    return _fastest(question, memory, case, lambda placement: _decoded(question, machine, engine, placement, context))


def prefill_times(question: Question, memory: MemoryPlan, case: Case) -> Times:
    """Seconds a token of the prompt in this case. hetsched takes a prompt whole, llama.cpp in pieces."""
    machine, engine = machine_in(case, question.profile), engine_in(case, question.engine)
    at_once, subject = UBATCH if engine.name == LLAMA_CPP else question.prompt, question.subject
    return _fastest(
        question, memory, case, lambda placement: prefill(subject, machine, engine, placement, question.prompt, at_once)
    )


def _fastest(question: Question, memory: MemoryPlan, case: Case, timed: Callable[[Placement], Times]) -> Times:
    """The time with the slots there are, or with as many of them as pay.

    Where the GPU is the longer lane, further experts there would only wait for it, and a scheduler leaves them to the
    CPU: so more memory is never slower, for single tokens. Between shares of an eighth, the mean of both, which is
    within a hundredth of the share's own at the usual skew.
    """
    if question.engine.name == LLAMA_CPP or question.profile.gpu is None:
        return timed(placement_of(question, memory, case))
    experts, place = question.subject.geometry.num_experts, memory.expert_share * STEPS
    below = min(int(place), STEPS - 1)
    first = 0 if question.speculation is None and question.batch == 1 else below  # a step of many tokens takes long
    grid = [timed(_hottest(experts, step / STEPS, case.skew)) for step in range(first, below + 2)]
    lower = min(grid[:-1], key=lambda times: times.total_s)
    upper = min(lower, grid[-1], key=lambda times: times.total_s)
    share = place - below
    parts = [times.over(1 / weight) for times, weight in ((lower, 1 - share), (upper, share)) if weight > 0]
    return parts[0] if len(parts) == 1 else parts[0].plus(parts[1])


def _hottest(experts: int, share: float, skew: float) -> Placement:
    return Placement(experts_per_layer=int(share * experts), hit=hit_share(share, skew))


def _decoded(question: Question, machine: HardwareProfile, engine: Engine, placement: Placement, context: int) -> Times:
    subject, batch = question.subject, question.batch
    if question.speculation is not None:
        return _speculated(question, machine, engine, placement, context)
    if batch == 1:
        return decode(subject, machine, engine, placement, context)
    times = step(subject, machine, engine, placement, context, batch, ExpertUnion(subject.geometry).active(batch))
    device = machine.gpu or machine.cpu
    attention = attention_s(device, subject.shape, 1, context, subject.kv_element_bytes, batch)
    return replace(times, attention_s=attention).over(batch)


def _speculated(
    question: Question, machine: HardwareProfile, engine: Engine, placement: Placement, context: int
) -> Times:
    """Of steps that verify drafts: by the model's own head for further tokens, or by what takes `draft_s` each."""
    speculation, subject = question.speculation, question.subject
    assert speculation is not None
    if question.draft_s is None:
        return speculate(subject, machine, engine, placement, context, speculation)
    size = speculation.drafts + 1
    verified = step(subject, machine, engine, placement, context, size, ExpertUnion(subject.geometry).active(size))
    return verified.plus(Times(head_s=speculation.drafts * question.draft_s)).over(speculation.tokens)


def _hit(question: Question, memory: MemoryPlan, case: Case) -> float:
    """Share of all layers' demand that is met on the GPU."""
    geometry = question.subject.geometry
    hits_L = placement_of(question, memory, case).hits_L(geometry)
    return sum(hits_L) / len(hits_L) if question.profile.gpu else 0.0


def _range(expected: Times, others: list[Times], alone: Sequence[Dependence] = ()) -> Range:
    """From the slowest to the fastest of all cases: what is better for one lane may be worse for another."""
    speeds = [times.tokens_per_s for times in (expected, *others)]
    speeds += [end for found in alone for end in (found.low, found.high)]
    return Range(min(speeds), expected.tokens_per_s, max(speeds))


def _dependence(question: Question, memory: MemoryPlan, unknown: Unknown, expected: Case, times: Times) -> Dependence:
    ends = [decode_times(question, memory, replace(expected, **end)) for end in (unknown.low, unknown.high)]
    speeds = [each.tokens_per_s for each in (*ends, times)]
    return Dependence(unknown, min(speeds), max(speeds))
