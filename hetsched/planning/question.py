"""Question: all that a plan is asked for, checked before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from ..errors import InputError
from ..estimate import ENGINES, Engine, Speculation, Subject
from ..geometry import MAX_LAYERS
from ..machine.profile import HardwareProfile
from ..memory.budget import expert_budget
from ..memory.context import MAX_TOKENS
from ..memory.plan import context_or_usual, require_at_least_one
from .model import LLAMA_CPP, PlannedModel

USUAL_PROMPT = 512  # tokens, as llama-bench's
MOST_BATCH = 1 << 16


@dataclass(frozen=True)
class Question:
    """`format`: of the experts, None: as published. `gpu_memory`: for experts, as attach() takes it.

    `n_cpu_moe`: llama.cpp's; of so many first layers the experts are on the CPU, None: as few as fit. `extra_bytes`: so
    much more for experts than `gpu_memory` says. `speculation`: verified drafts, whose model takes `draft_bytes` of the
    GPU and `draft_s` a draft; None: the model's own head for further tokens drafts. `kv_bits`: of a number in the
    cache, None: what the engine keeps. `hot`: llama.cpp's memory for experts holds the hottest of each layer, as forks
    have it, and no whole layers.
    """

    model: PlannedModel
    profile: HardwareProfile
    engine: Engine = ENGINES["hetsched"]
    format: str | None = None
    context_asked: int | None = None
    batch: int = 1
    prompt: int = USUAL_PROMPT
    gpu_memory: str | int | None = None
    n_cpu_moe: int | None = None
    speculation: Speculation | None = None
    draft_bytes: int = 0
    draft_s: float | None = None
    extra_bytes: int = 0
    kv_bits: float | None = None
    hot: bool = False

    def check(self) -> None:
        """Raise InputError for sizes that no machine has and options that contradict each other."""
        for name, value, most in (
            ("context", self.context, MAX_TOKENS),
            ("batch", self.batch, MOST_BATCH),
            ("prompt", self.prompt, MAX_TOKENS),
        ):
            require_at_least_one(name, value)
            if value > most:
                raise InputError(f"{name} is {value}; it must be a whole number from 1 to {most}")
        if self.speculation is not None and self.batch > 1:
            raise InputError(f"drafts are planned for one sequence, and --batch is {self.batch}; drop one of the two")
        if self.n_cpu_moe is not None and self.engine.name != LLAMA_CPP:
            raise InputError("--n-cpu-moe is a placement of llama.cpp's; add --engine llama.cpp, or drop it")
        if self.n_cpu_moe is not None and self.gpu_memory is not None:
            raise InputError(
                "--n-cpu-moe says which experts the GPU holds, and --gpu-memory how many; drop one of them"
            )
        if self.n_cpu_moe is not None and not 0 <= self.n_cpu_moe <= MAX_LAYERS:
            raise InputError(f"--n-cpu-moe is {self.n_cpu_moe}; it must be a whole number from 0 to {MAX_LAYERS}")
        if self.prompt > self.context:
            raise InputError(
                f"a prompt of {self.prompt} tokens is longer than the context of {self.context}; give a larger "
                "--context, or a smaller --prompt-tokens"
            )
        _ = self.subject, self.budget_bytes

    @property
    def context(self) -> int:
        """Tokens of a sequence that there is to be room for."""
        return context_or_usual(self.context_asked, self.model.shape)

    @cached_property
    def subject(self) -> Subject:
        """The model as the engine holds it."""
        subject = self.model.subject(self.engine, self.format)
        return subject if self.kv_bits is None else replace(subject, kv_element_bytes=self.kv_bits / 8)

    @property
    def budget_bytes(self) -> int | None:
        """GPU memory for experts; None: what the rest of the model leaves."""
        budget = expert_budget(self.gpu_memory, self.subject.geometry, self.profile)
        return None if budget is None else budget + self.extra_bytes

    def on(self, profile: HardwareProfile) -> Question:
        """The same on another machine."""
        return replace(self, profile=profile)
