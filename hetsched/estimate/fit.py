"""How many layers' experts fit on a GPU beside the rest of a model, as somebody sets --n-cpu-moe by hand."""

from __future__ import annotations

from ..memory.plan import RESERVE_SHARE
from .placement import Placement
from .subject import Subject

WORKSPACE_BYTES = 1 << 30  # llama.cpp's compute buffers at a batch of 512, logits included


def fitting_split(subject: Subject, gpu_bytes: int, context: int) -> Placement:
    """The fewest layers on the CPU with which the rest fits: dense part, cache, workspace and the driver's reserve.

    The input embedding stays on the host, as llama.cpp keeps it.
    """
    cache_bytes = subject.shape.cache_bytes(context) * subject.kv_element_bytes / 2
    rest_bytes = subject.dense_bytes + subject.head_bytes + cache_bytes + WORKSPACE_BYTES
    room_bytes = gpu_bytes * (1 - RESERVE_SHARE) - rest_bytes
    sizes_L = [size * subject.geometry.num_experts for size in subject.expert_bytes_L]
    for layers_on_cpu in range(len(sizes_L)):
        if sum(sizes_L[layers_on_cpu:]) <= room_bytes:
            return Placement.split(layers_on_cpu)
    return Placement.split(len(sizes_L))
