"""llama.cpp's --n-cpu-moe as a placement, and the least with which a model fits, as somebody sets it by hand."""

from __future__ import annotations

from ..memory.plan import RESERVE_SHARE
from .placement import Placement
from .subject import Subject

WORKSPACE_BYTES = 1 << 30  # llama.cpp's compute buffers at a batch of 512, logits included


def n_cpu_moe(subject: Subject, flag: int) -> Placement:
    """The placement of --n-cpu-moe `flag`: the experts of so many layers of the model, the first ones, on the CPU.

    Layers without experts, which come first in models that have any, are counted as well.
    """
    plain_layers = max(len(subject.shape.layers) - subject.geometry.num_layers, 0)
    return Placement.split(min(max(flag - plain_layers, 0), subject.geometry.num_layers))


def fitting_split(subject: Subject, gpu_bytes: int, context: int) -> Placement:
    """The fewest layers on the CPU with which the rest fits: dense part, cache, workspace and the driver's reserve.

    The input embedding stays on the host, as llama.cpp keeps it.
    """
    cache_bytes = subject.shape.cache_bytes(context) * subject.kv_element_bytes / 2
    rest_bytes = subject.dense_bytes + subject.head_bytes + cache_bytes + WORKSPACE_BYTES
    room_bytes = gpu_bytes * (1 - RESERVE_SHARE) - rest_bytes
    return Placement.split(layers_beyond(room_bytes, layer_bytes_L(subject)))


def layer_bytes_L(subject: Subject) -> list[int]:
    """Bytes of all experts of each layer with experts."""
    geometry = subject.geometry
    counts_L = geometry.experts_L or (geometry.num_experts,) * geometry.num_layers
    return [count * size for count, size in zip(counts_L, subject.expert_bytes_L, strict=True)]


def layers_beyond(room_bytes: float, sizes_L: list[int]) -> int:
    """The fewest first layers without which the others' experts fit into so many bytes."""
    return next((n for n in range(len(sizes_L)) if sum(sizes_L[n:]) <= room_bytes), len(sizes_L))
