"""What an engine keeps where: hetsched by its own plan, llama.cpp layer by layer.

Shapes: L layers with experts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..estimate.fit import WORKSPACE_BYTES, layer_bytes_L, layers_beyond
from ..machine.profile import HardwareProfile
from ..memory.plan import RESERVE_SHARE, Lines, MemoryPlan, plan_memory
from .model import LLAMA_CPP
from .question import Question

UBATCH = 512  # tokens that llama.cpp computes at once, its --ubatch-size


def memory_of(question: Question) -> MemoryPlan:
    """The lines of both memories; `fits` is False where one is exceeded, and nothing is raised for that."""
    return _of_llama_cpp(question) if question.engine.name == LLAMA_CPP else _of_hetsched(question)


def over_bytes(memory: MemoryPlan) -> tuple[int, int]:
    """By how much GPU and host are exceeded."""
    return max(0, -memory.gpu_left_bytes), max(0, -memory.host_left_bytes)


def layers_on_cpu(question: Question) -> int:
    """MoE layers whose experts llama.cpp has on the CPU: those that --n-cpu-moe covers, or as few as fit."""
    moe_layers, profile = question.model.layers, question.profile
    if profile.gpu is None:
        return len(moe_layers)
    if question.n_cpu_moe is not None:
        return sum(layer < question.n_cpu_moe for layer in moe_layers)
    left = profile.gpu.capacity_bytes - _lines_of_llama_cpp(question, profile).total
    room = left if question.budget_bytes is None else question.budget_bytes
    return layers_beyond(room, layer_bytes_L(question.subject))


def hot_share(question: Question, memory: MemoryPlan) -> float:
    """The share of all experts that the memory for them would hold, were they not taken by whole layers."""
    room = memory.expert_room_bytes if question.budget_bytes is None else question.budget_bytes
    return min(1.0, room / sum(layer_bytes_L(question.subject))) if question.profile.gpu else 0.0


def _of_hetsched(question: Question) -> MemoryPlan:
    profile, subject = question.profile, question.subject
    return plan_memory(
        subject.geometry,
        subject.shape,
        gpu_bytes=profile.gpu.capacity_bytes if profile.gpu else 0,
        host_bytes=profile.cpu.capacity_bytes,
        context=question.context,
        batch=question.batch,
        expert_budget_bytes=question.budget_bytes,
        draft_bytes=question.draft_bytes,
        pinnable_bytes=profile.pinnable_bytes,
        shared=profile.unified_memory,
    )


def _of_llama_cpp(question: Question) -> MemoryPlan:
    """Layers below a number have their experts in the host's memory, mapped from the file; others do not."""
    profile, subject = question.profile, question.subject
    geometry, sizes_L = subject.geometry, layer_bytes_L(question.subject)
    on_cpu = layers_on_cpu(question)
    rest = _lines_of_llama_cpp(question, profile)
    counts_L = geometry.experts_L or (geometry.num_experts,) * geometry.num_layers
    shared: dict[str, Any] = {
        "host_bytes": profile.cpu.capacity_bytes,
        "pinned_bytes": 0,
        "experts": geometry.total_experts,
        "expert_bytes": geometry.expert_bytes,
        "context": question.context,
        "batch": question.batch,
        "shared": profile.unified_memory and profile.gpu is not None,
    }
    if profile.gpu is None:
        host = replace(rest, experts=sum(sizes_L), dense=rest.dense + subject.embedding_bytes, reserve=0)
        return MemoryPlan(gpu=Lines(), host=host, gpu_bytes=0, slots=0, **shared)
    return MemoryPlan(
        gpu=replace(rest, experts=sum(sizes_L[on_cpu:])),
        host=Lines(experts=sum(sizes_L[:on_cpu]), dense=subject.embedding_bytes),
        gpu_bytes=profile.gpu.capacity_bytes,
        slots=sum(counts_L[on_cpu:]),
        **shared,
    )


def _lines_of_llama_cpp(question: Question, profile: HardwareProfile) -> Lines:
    """All but experts, and but the embedding, which stays on the host."""
    subject = question.subject
    elements = subject.shape.cache_bytes(question.context, question.batch, 1)
    capacity = profile.gpu.capacity_bytes if profile.gpu else 0
    return Lines(
        dense=subject.dense_bytes + subject.head_bytes,
        kv_cache=int(elements * subject.kv_element_bytes),
        prefill=WORKSPACE_BYTES,
        draft=question.draft_bytes,
        reserve=int(RESERVE_SHARE * capacity),
    )
