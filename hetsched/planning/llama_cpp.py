"""A placement in llama.cpp's words: --n-cpu-moe, an -ot expression, its cache flags, and forks' hot experts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..estimate import ENGINES
from .memory import hot_share, layers_on_cpu, memory_of
from .model import LLAMA_CPP
from .outlook import expected_speeds
from .question import Question

EXPERTS = r"ffn_(up|down|gate|gate_up)_(ch|)exps"  # llama.cpp's own expression for a block's routed experts


@dataclass(frozen=True)
class LlamaCppFlags:
    """`n_cpu_moe`: blocks, as llama.cpp counts them, whose experts are on the CPU. `override`: the same as an -ot
    value, "" for none. `cache`: flags of the KV cache. `slots`: experts of a layer for a fork's cache of hot ones, 0
    for none. `routing`: the file that it begins with. `sequences`: at once. `decode`: tokens a second expected of it,
    None where it does not fit.
    """

    n_cpu_moe: int
    override: str
    cache: tuple[str, ...]
    context: int
    slots: int
    routing: str = "FILE"
    has_gpu: bool = True
    sequences: int = 1
    decode: float | None = None

    @property
    def flags(self) -> str:
        """For a command line of llama-server, llama-cli or llama-bench's relatives."""
        moe = f" --n-cpu-moe {self.n_cpu_moe}" if self.n_cpu_moe else ""
        many = f" -np {self.sequences}" if self.sequences > 1 else ""
        return " ".join([f"-ngl {99 if self.has_gpu else 0}{moe} -c {self.context}{many}", *self.cache])

    @property
    def fork_flags(self) -> str:
        """For thecodacus/llama.cpp, whose cache keeps the most frequent experts of a recorded trace on the GPU."""
        cache = f"--moe-cache-profile {self.routing} --moe-cache-slots {self.slots}"
        return f"-ngl 99 --n-cpu-moe 99 {cache}" if self.slots else ""


def flags_of(question: Question, routing: str = "FILE") -> LlamaCppFlags:
    """Flags that put as many experts on the GPU as llama.cpp has room for, whole layers of them, the last ones.

    They are for what llama.cpp would hold of the model, whichever engine was asked about.
    """
    own = replace(question, engine=ENGINES[LLAMA_CPP], speculation=None, draft_bytes=0)
    layers, memory, has_gpu = own.model.layers, memory_of(own), own.profile.gpu is not None
    on_cpu = layers_on_cpu(own) if has_gpu else 0  # -ngl 0 says it all
    types = ("-fa on", "-ctk f16 -ctv f16") if memory.gpu.kv_cache or memory.host.kv_cache else ()
    speeds = expected_speeds(own)
    return LlamaCppFlags(
        n_cpu_moe=layers[on_cpu - 1] + 1 if on_cpu else 0,
        override=override(layers[:on_cpu]) if on_cpu else "",
        cache=types,
        context=own.context * own.batch,
        slots=int(hot_share(own, memory) * own.subject.geometry.num_experts) if on_cpu else 0,
        routing=routing,
        has_gpu=has_gpu,
        sequences=own.batch,
        decode=speeds and speeds[0],
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
