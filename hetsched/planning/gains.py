"""What a little more of one thing would bring, estimated anew: memory, link, DRAM, another format, a smaller cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..errors import InputError
from ..geometry import WEIGHT_BITS
from ..machine.datasheet import PCIE_LANE_BYTES_PER_S
from ..machine.profile import HardwareProfile
from .model import LLAMA_CPP
from .outlook import expected_speeds
from .question import Question
from .spread import processor_at

GIB = 1 << 30
DRAM_STEP = 1.25  # DDR5-4800 to 6000, or DDR4-2666 to 3333
FORMATS = ("q8_0", "q4_k_m", "q4_0")  # in the order of their sizes; the last for shapes that q4_k cannot store
KV_BITS = WEIGHT_BITS["q8_0"]


@dataclass(frozen=True)
class Gain:
    """`decode`, `prefill`: expected tokens a second with the change; None where it does not fit even so.

    `exact`: whether the model stays the same; another format may be another model's weights.
    """

    change: str
    text: str
    decode: float | None
    prefill: float | None
    exact: bool = True


def gains_of(question: Question, skew: float | None = None) -> list[Gain]:
    """Every change that applies to this machine and engine."""
    found = []
    for name, text, changed, exact in _changes(question):
        decode, prefill = expected_speeds(changed, skew) or (None, None)
        found.append(Gain(name, text, decode, prefill, exact))
    return found


def _changes(question: Question) -> Iterator[tuple[str, str, Question, bool]]:
    profile = question.profile
    if profile.gpu is not None and question.n_cpu_moe is None:
        extra = question.extra_bytes + (GIB if question.gpu_memory is not None else 0)
        larger = replace(profile.gpu, capacity_bytes=profile.gpu.capacity_bytes + GIB)
        more = replace(question, profile=replace(profile, gpu=larger), extra_bytes=extra)
        yield "gpu_memory", "1 GiB more of GPU memory", more, True
    if profile.h2d is not None and profile.d2h is not None and not profile.unified_memory:
        faster = replace(
            profile,
            h2d=replace(profile.h2d, bytes_per_s=2 * profile.h2d.bytes_per_s),
            d2h=replace(profile.d2h, bytes_per_s=2 * profile.d2h.bytes_per_s),
        )
        yield "pcie", _pcie_step(profile), question.on(faster), True
    cpu = processor_at(profile.cpu, DRAM_STEP, flops=1.0)
    yield "dram", f"DRAM {DRAM_STEP - 1:.0%} faster", question.on(replace(profile, cpu=cpu)), True
    yield from _formats(question)
    if question.engine.name == LLAMA_CPP and profile.gpu is not None:
        yield "hot_experts", "a fork's cache of hot experts, in the same memory", replace(question, hot=True), True
    if question.engine.name == LLAMA_CPP and question.n_cpu_moe is None:
        yield "kv_cache", "KV cache in q8_0 (-ctk q8_0 -ctv q8_0)", replace(question, kv_bits=KV_BITS), False


def _pcie_step(profile: HardwareProfile) -> str:
    """A step of the slot that doubles its rate."""
    sheet = profile.datasheet
    if sheet is None:
        return "a link of twice the rate"
    generation, lanes = sheet.pcie_generation, sheet.pcie_lanes
    if lanes < 16:
        return f"PCIe {generation}.0 x{2 * lanes} instead of x{lanes}"
    if generation + 1 in PCIE_LANE_BYTES_PER_S:
        return f"PCIe {generation + 1}.0 x{lanes} instead of {generation}.0"
    return "a link of twice the rate"


def _formats(question: Question) -> Iterator[tuple[str, str, Question, bool]]:
    """Formats of other sizes than that of the experts now, none larger than what the model was published in."""
    seen = [question.subject.geometry.total_expert_bytes]
    most = question.model.published.total_expert_bytes
    for name in (None, *FORMATS):
        changed = replace(question, format=name, gpu_memory=_as_bytes(question), extra_bytes=0)
        try:
            changed.check()
        except InputError:  # no such shape, or a slot that is larger than the budget
            continue
        size = changed.subject.geometry.total_expert_bytes
        if size <= most and all(abs(size - other) >= 0.1 * other for other in seen):
            seen.append(size)
            text = f"experts in {name}" if name else f"experts as published, {question.model.published.dtype}"
            yield "format", text, changed, name is None


def _as_bytes(question: Question) -> int | None:
    """A budget as bytes: a share would be one of another model."""
    return None if question.gpu_memory is None else question.budget_bytes
