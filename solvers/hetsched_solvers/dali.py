"""greedy-dali: experts by descending load, each to the lane that finishes it first (DALI, arXiv 2602.03495)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hetsched.jit import compiled_lean
from hetsched.types import FloatArray, IntArray

from .rule_kernels import FETCH, GPU, KernelRule, answering, put


@compiled_lean
def greedy(
    packed: FloatArray,
    size: int,
    link_free_s: float,
    roundtrip_s: float,
    gpu_call_s: float,
    order_N: IntArray,
    choice_N: npt.NDArray[np.int8],
) -> None:
    """One pass over the experts; every lane remembers until when it is busy."""
    for i in range(size):
        put(order_N, i, i, packed[size : 2 * size])
    gpu_free_s, cpu_free_s, victims = gpu_call_s, roundtrip_s, len(packed) - 5 * size
    for i in order_N:
        copy_s, arrival_s = packed[3 * size + i], packed[4 * size + i]
        is_here = arrival_s < np.inf
        if not is_here and victims:
            arrival_s = link_free_s + copy_s
        gpu_end_s, cpu_end_s = max(gpu_free_s, arrival_s) + packed[i], cpu_free_s + packed[size + i]
        if not gpu_end_s < cpu_end_s:
            cpu_free_s = cpu_end_s
            continue
        gpu_free_s = gpu_end_s
        choice_N[i] = GPU if is_here else FETCH
        if not is_here:
            link_free_s += copy_s
            victims -= 1


class Dali(KernelRule):
    """The paper's greedy 0-1 assignment, with its three inputs: GPU, CPU and transfer time of each expert."""

    name = "greedy-dali"
    answer = staticmethod(answering(__name__, greedy))
