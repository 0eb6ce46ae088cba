"""Speeds of a placement in one case, and their range over all that is not known. Estimated, never measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from ..cost.attention import attention_s
from ..estimate import Engine, Placement, Times, decode, hit_share, prefill, speculate
from ..estimate.decode import step
from ..machine.profile import HardwareProfile
from ..memory.plan import MemoryPlan
from ..speculation.union import ExpertUnion
from .memory import UBATCH, layers_on_cpu, memory_of
from .model import LLAMA_CPP
from .question import Question
from .spread import Case, Unknown, cases, engine_in, machine_in, unknowns


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
    """The speeds of what was planned. `skew`: as a trace told it."""
    expected = Case() if skew is None else Case(skew=skew)
    found = unknowns(question.profile, question.engine, question.context, skew)
    low, high = cases(found, expected)
    three = low, expected, high
    return Outlook(
        decode=_range([decode_times(question, memory, case) for case in three]),
        prefill=_range([prefill_times(question, memory, case) for case in three]),
        times=decode_times(question, memory, expected),
        placement=placement_of(question, memory, expected),
        depends_on=[_dependence(question, memory, unknown, expected) for unknown in found],
        hit=Range(*(_hit(question, memory, case) for case in three)),
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
    if question.engine.name == LLAMA_CPP and not question.hot:
        return Placement.split(layers_on_cpu(question))
    if memory.slots >= memory.experts:
        return Placement()
    each = memory.slots // geometry.num_layers
    return Placement(experts_per_layer=each, hit=hit_share(memory.expert_share, case.skew))


def decode_times(question: Question, memory: MemoryPlan, case: Case) -> Times:
    """Seconds of one token in this case, all sequences' together."""
    machine, engine = machine_in(case, question.profile), engine_in(case, question.engine)
    placement, subject = placement_of(question, memory, case), question.subject
    context = int(case.filled * question.context)
    if question.speculation is not None:
        return _speculated(question, machine, engine, placement, context)
    if question.batch == 1:
        return decode(subject, machine, engine, placement, context)
    batch, device = question.batch, machine.gpu or machine.cpu
    active = ExpertUnion(subject.geometry).active(batch)
    times = step(subject, machine, engine, placement, context, batch, active)
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


def prefill_times(question: Question, memory: MemoryPlan, case: Case) -> Times:
    """Seconds a token of the prompt in this case. hetsched takes a prompt whole, llama.cpp in pieces."""
    machine, engine = machine_in(case, question.profile), engine_in(case, question.engine)
    at_once = UBATCH if engine.name == LLAMA_CPP else question.prompt
    placement = placement_of(question, memory, case)
    return prefill(question.subject, machine, engine, placement, question.prompt, at_once)


def _hit(question: Question, memory: MemoryPlan, case: Case) -> float:
    """Share of all layers' demand that is met on the GPU."""
    geometry = question.subject.geometry
    hits_L = placement_of(question, memory, case).hits_L(geometry)
    return sum(hits_L) / len(hits_L) if question.profile.gpu else 0.0


def _range(three: list[Times]) -> Range:
    return Range(*(times.tokens_per_s for times in three))


def _dependence(question: Question, memory: MemoryPlan, unknown: Unknown, expected: Case) -> Dependence:
    ends = (replace(expected, **end) for end in (unknown.low, unknown.high))
    low, high = (decode_times(question, memory, case).tokens_per_s for case in ends)
    return Dependence(unknown, low, high)
