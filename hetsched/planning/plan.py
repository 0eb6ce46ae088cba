"""Plan: the whole answer to a question."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..machine.sizes import show_bytes
from ..memory.plan import MemoryPlan
from .gains import Gain, gains_of
from .llama_cpp import LlamaCppFlags, flags_of
from .memory import layers_on_cpu, memory_of, over_bytes
from .model import LLAMA_CPP
from .outlook import NOTHING, Outlook, Range, outlook_of
from .question import Question
from .remedies import remedies_of

if TYPE_CHECKING:
    from ..replay.simulator import Progress
    from .traced import Traced

ALL_RESIDENT, HOT, SPLIT, CPU_ONLY, NO_FIT = "all-resident", "hot-experts", "layer-split", "cpu-only", "does-not-fit"
EVERY = "every expert on the GPU"


@dataclass(frozen=True)
class Drafted:
    """What drafts would come to: tokens a second with and without them."""

    tokens_per_s: float
    plain_tokens_per_s: float

    @property
    def pays(self) -> bool:
        """Whether decoding is faster with them; if not, a plan decodes without."""
        return self.tokens_per_s > self.plain_tokens_per_s


@dataclass(frozen=True)
class Plan:
    """What was asked, what goes where, how fast that is, and what would change it.

    `outlook` is None where it does not fit, and then `remedies` are options that make it fit. `traced`: what a recorded
    trace says. `drafted`: where drafts were asked for.
    """

    question: Question
    memory: MemoryPlan
    strategy: str
    outlook: Outlook | None
    gains: list[Gain]
    llama_cpp: LlamaCppFlags
    remedies: list[str]
    traced: Traced | None = None
    drafted: Drafted | None = None

    @property
    def decode(self) -> Range:
        """Tokens a second: by the trace where there is one, else estimated."""
        if self.outlook is None:
            return NOTHING
        return self.traced.speeds if self.traced else self.outlook.decode

    @property
    def prefill(self) -> Range:
        """Tokens of a prompt a second, estimated."""
        return NOTHING if self.outlook is None else self.outlook.prefill

    @property
    def strategy_text(self) -> str:
        """The strategy for people."""
        return _told(self)


def planned(
    question: Question,
    trace: Path | None = None,
    max_tokens: int | None = None,
    progress: Progress | None = None,
    routing: str = "FILE",
) -> Plan:
    """The answer. `trace`: recorded routing of the model, which hetsched's strategy is replayed on. `routing`: a file
    of hot experts, for the flags that name one.

    Raises InputError for what the question's check() refuses and for a trace of another model.
    """
    question.check()
    memory = memory_of(question)
    flags, remedies = flags_of(question, routing), remedies_of(question)
    if not memory.fits:
        enough = [gain for gain in gains_of(question) if gain.decode is not None]
        return Plan(question, memory, NO_FIT, None, enough, flags, remedies)
    traced, skew = None, None
    if trace is not None and question.engine.name != LLAMA_CPP:
        from .traced import replayed

        traced = replayed(question, memory, trace, max_tokens, progress)
        skew = traced.skew
    outlook, drafted = _better_with_drafts_or_without(question, memory, skew)
    chosen = question if drafted is None or drafted.pays else replace(question, speculation=None)
    if traced is not None:
        from .traced import in_range

        traced = in_range(traced, question, outlook, drafted.plain_tokens_per_s if drafted and drafted.pays else None)
    return Plan(
        question, memory, _strategy(question, memory), outlook, gains_of(chosen, skew), flags, remedies, traced, drafted
    )


def _better_with_drafts_or_without(
    question: Question, memory: MemoryPlan, skew: float | None
) -> tuple[Outlook, Drafted | None]:
    outlook = outlook_of(question, memory, skew)
    if question.speculation is None:
        return outlook, None
    plain = outlook_of(replace(question, speculation=None), memory, skew)
    drafted = Drafted(outlook.times.tokens_per_s, plain.times.tokens_per_s)
    return (outlook if drafted.pays else plain), drafted


def _strategy(question: Question, memory: MemoryPlan) -> str:
    if question.profile.gpu is None:
        return CPU_ONLY
    if memory.slots >= memory.experts:
        return ALL_RESIDENT
    return SPLIT if question.engine.name == LLAMA_CPP else HOT


def _told(plan: Plan) -> str:
    question, memory = plan.question, plan.memory
    layers = len(question.model.layers)
    if plan.strategy == NO_FIT:
        over = [
            f"{name} by {show_bytes(by)}" for name, by in zip(("GPU", "host"), over_bytes(memory), strict=True) if by
        ]
        return f"does not fit: too much for the {' and the '.join(over)}"
    if plan.strategy == CPU_ONLY:
        return "no GPU: everything on the CPU"
    if plan.strategy == ALL_RESIDENT:
        aside = plan.outlook is not None and plan.outlook.times.cpu_experts_s > 0
        return "room for every expert on the GPU, and some are computed on the CPU beside it" if aside else EVERY
    if plan.strategy == SPLIT:
        return f"experts of {layers_on_cpu(question)} of {layers} layers on the CPU, of the others on the GPU"
    assert plan.outlook is not None
    times = plan.outlook.times
    both = times.link_s > 0 and times.cpu_experts_s > 0
    missing = "copied or computed on the CPU" if both else "copied" if times.link_s > 0 else "computed on the CPU"
    return f"the hottest {memory.slots:,} of {memory.experts:,} experts on the GPU, missing ones {missing}"
