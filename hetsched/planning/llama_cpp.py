"""The same placement in llama.cpp's words: --n-cpu-moe, an -ot expression, its cache flags, and forks' hot experts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..memory.plan import MemoryPlan
from .memory import hot_share, layers_on_cpu
from .model import LLAMA_CPP
from .question import Question

EXPERTS = r"ffn_(up|down|gate|gate_up)_(ch|)exps"  # llama.cpp's own expression for a block's routed experts


@dataclass(frozen=True)
class LlamaCppFlags:
    """`n_cpu_moe`: blocks, as llama.cpp counts them, whose experts are on the CPU. `override`: the same as an -ot
    value, "" for none. `cache`: flags of the KV cache. `slots`: experts of a layer for a fork's cache of hot ones, 0
    for none. `routing`: the file that it begins with.
    """

    n_cpu_moe: int
    override: str
    cache: tuple[str, ...]
    context: int
    slots: int
    routing: str = "FILE"
    has_gpu: bool = True

    @property
    def flags(self) -> str:
        """For a command line of llama-server, llama-cli or llama-bench's relatives."""
        moe = f" --n-cpu-moe {self.n_cpu_moe}" if self.n_cpu_moe else ""
        return " ".join([f"-ngl {99 if self.has_gpu else 0}{moe} -c {self.context}", *self.cache])

    @property
    def fork_flags(self) -> str:
        """For thecodacus/llama.cpp, whose cache keeps the most frequent experts of a recorded trace on the GPU."""
        cache = f"--moe-cache-profile {self.routing} --moe-cache-slots {self.slots}"
        return f"-ngl 99 --n-cpu-moe 99 {cache}" if self.slots else ""


def flags_of(question: Question, memory: MemoryPlan, routing: str = "FILE") -> LlamaCppFlags:
    """Flags that put as many experts on the GPU as the plan does, whole layers of them.

    For hetsched's plan those layers that the memory of its slots holds; they are the last ones, as llama.cpp has it.
    """
    layers = question.model.layers
    if question.profile.gpu is None:
        on_cpu = 0  # -ngl 0 says it all
    elif question.engine.name == LLAMA_CPP:
        on_cpu = layers_on_cpu(question)
    else:
        on_cpu = len(layers) - memory.slots // question.subject.geometry.num_experts
    blocks = layers[on_cpu - 1] + 1 if on_cpu else 0
    types = ("-fa on", "-ctk f16 -ctv f16") if memory.gpu.kv_cache or memory.host.kv_cache else ()
    slots = int(hot_share(question, memory) * question.subject.geometry.num_experts)
    everything = memory.slots >= memory.experts
    return LlamaCppFlags(
        n_cpu_moe=blocks,
        override=override(layers[:on_cpu]) if on_cpu else "",
        cache=types,
        context=question.context * question.batch,
        slots=0 if everything else slots,
        routing=routing,
        has_gpu=question.profile.gpu is not None,
    )


def override(layers: Iterable[int]) -> str:
    """A value for -ot: the routed experts of these blocks on the CPU."""
    return rf"blk\.({numbers_expression(layers)})\.{EXPERTS}=CPU"


def numbers_expression(numbers: Iterable[int]) -> str:
    """Alternatives that match these whole numbers and no others, those of alike last digits together."""
    tens: dict[int, list[int]] = {}
    for number in sorted(set(numbers)):
        tens.setdefault(number // 10, []).append(number % 10)
    alike: dict[tuple[str, int], list[int]] = {}  # by last digits, and by how many digits come before
    for ten, digits in tens.items():
        alike.setdefault((_digits(digits), ten if ten > 9 else min(ten, 1)), []).append(ten)
    return "|".join(f"{_digits(found) if before else ''}{last}" for (last, before), found in alike.items())


def _digits(digits: list[int]) -> str:
    """One of these; a single number may have several digits."""
    if len(digits) == 1:
        return str(digits[0])
    if digits == list(range(digits[0], digits[-1] + 1)):
        return f"[{digits[0]}-{digits[-1]}]"
    return f"[{''.join(map(str, digits))}]"
