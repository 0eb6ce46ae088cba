"""A recorded trace's say: the strategy replayed on it, and what of a token's time a replay leaves out, estimated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..cost.model import CostModel
from ..estimate import Times
from ..memory.plan import MemoryPlan
from ..replay import replay_one
from ..replay.simulator import Progress
from ..replay.study import Study, fitted_on
from .outlook import NOTHING, Outlook, Range
from .question import Question
from .spread import skew_of

STRATEGY = "hetsched"


@dataclass(frozen=True)
class Traced:
    """`tokens_per_s`: of the replay alone, as `hetsched simulate` says it. `beside_s`: of a token, what the replay
    leaves out: attention over the context, the head, and layers without experts. `skew`: which gives this hit rate.
    `speeds`: with what is left out, and the estimate's range about it.
    """

    trace: str
    gpu_fraction: float
    tokens_per_s: float
    hit_rate: float
    beside_s: float
    host_s: float
    skew: float
    tokens: int
    speeds: Range


def replayed(
    question: Question, memory: MemoryPlan, trace: Path, max_tokens: int | None, progress: Progress | None = None
) -> Traced:
    """Replay the held-out half of a trace with the plan's slots, decisions and the engine's own time as constants.

    Raises InputError for a trace of another model, or with nothing that is decoded.
    """
    profile, geometry = question.profile, question.subject.geometry
    host_s = question.engine.layer_host_s(profile)
    study = replace(
        Study.of(trace, geometry, [profile]),
        max_tokens=max_tokens,
        decision_s=0.0,  # part of the engine's own time
        host_s=host_s,
        bound_windows=0,
        **fitted_on(None, None),
    )
    fraction = fraction_of(memory)
    report = replay_one(study, STRATEGY, fraction, progress)
    return Traced(
        trace=str(report.facts["trace"]),
        gpu_fraction=fraction,
        tokens_per_s=report.row.tokens_per_s,
        hit_rate=report.row.hit_rate,
        beside_s=0.0,
        host_s=host_s,
        skew=skew_of(memory.expert_share, report.row.hit_rate),
        tokens=int(report.facts["tokens_scored"]),
        speeds=NOTHING,
    )


def fraction_of(memory: MemoryPlan) -> float:
    """The share of all experts' bytes that the plan's slots are: the least number that gives these slots back."""
    whole = memory.experts * memory.expert_bytes
    return min(1.0, (memory.slots + 0.5) * memory.expert_bytes / whole) if memory.slots < memory.experts else 1.0


def in_range(found: Traced, question: Question, outlook: Outlook, plain: float | None = None) -> Traced:
    """The replay's speed with what it leaves out, and the estimate's range about it.

    A replay drafts nothing: where drafts pay, `plain` is the estimate without them, and the replay gains as that does.
    """
    low, middle, high = outlook.decode
    assert low is not None
    assert middle is not None
    assert high is not None
    beside_s = _beside_s(question, outlook.times)
    expected = middle / (plain or middle) / (1 / found.tokens_per_s + beside_s)
    return replace(found, beside_s=beside_s, speeds=Range(expected * low / middle, expected, expected * high / middle))


def _beside_s(question: Question, times: Times) -> float:
    """Of a token: attention, head, and the dense part's excess over that of layers with experts."""
    geometry = question.subject.geometry
    in_replay_s = geometry.num_layers * CostModel(question.profile, geometry).dense_s(1)
    return times.attention_s + times.head_s + max(0.0, times.dense_s - in_replay_s)
