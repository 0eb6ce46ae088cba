"""list-hybrimoe: a list schedule over the three lanes (HybriMoE, arXiv 2504.05897).

GPU takes what is here, high load first; CPU takes what is missing, low load first; LINK takes what is missing, high
load first, for the GPU. A CPU that has run out of misses helps the GPU with its lowest loads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hetsched.jit import compiled_lean
from hetsched.types import FloatArray, IntArray

from .rule_kernels import CPU, FETCH, GPU, KernelRule, answering, is_missing, keep_here, put


@compiled_lean
def schedule(
    packed: FloatArray,
    size: int,
    link_free_s: float,
    roundtrip_s: float,
    gpu_call_s: float,
    order_N: IntArray,
    choice_N: npt.NDArray[np.int8],
) -> None:
    """Event by event: whichever of CPU and LINK ends its next expert first, takes it."""
    keep_here(packed, size, choice_N)
    gpu_end_s, cpu_end_s = gpu_call_s, roundtrip_s
    waiting, cpu_s_N = 0, packed[size : 2 * size]
    for i in range(size):
        if choice_N[i] == GPU:
            gpu_end_s += packed[i]
        elif is_missing(packed, size, i):
            put(order_N, waiting, i, cpu_s_N)
            waiting += 1
        else:
            cpu_end_s += cpu_s_N[i]
    front, back, victims = 0, waiting - 1, len(packed) - 5 * size  # LINK takes from the front, CPU from the back
    while front <= back:
        i = order_N[front]
        link_end_s = link_free_s + packed[3 * size + i]
        fetched_s = max(gpu_end_s, link_end_s) + packed[i]
        if victims and fetched_s < cpu_end_s + cpu_s_N[order_N[back]]:
            choice_N[i] = FETCH
            link_free_s, gpu_end_s, victims = link_end_s, fetched_s, victims - 1
            front += 1
        else:
            cpu_end_s += cpu_s_N[order_N[back]]
            back -= 1
    _help(packed, size, gpu_end_s, cpu_end_s, order_N, choice_N)


@compiled_lean
def _help(
    packed: FloatArray,
    size: int,
    gpu_end_s: float,
    cpu_end_s: float,
    order_N: IntArray,
    choice_N: npt.NDArray[np.int8],
) -> None:
    """Residents move to the CPU, lowest load first, as long as it ends them before the GPU would end."""
    here = 0
    for i in range(size - 1, -1, -1):  # from behind, so that of equals the first is the last, and taken first
        if choice_N[i] == GPU:
            put(order_N, here, i, packed[size : 2 * size])
            here += 1
    for place in range(here - 1, -1, -1):
        i = order_N[place]
        if cpu_end_s + packed[size + i] >= gpu_end_s:
            return
        choice_N[i] = CPU
        cpu_end_s += packed[size + i]
        gpu_end_s -= packed[i]


class HybriMoe(KernelRule):
    """The paper's schedule; arrivals of what is in flight are not waited for in it."""

    name = "list-hybrimoe"
    answer = staticmethod(answering(__name__, schedule))
