"""A cost model's seconds as the arrays that kernels read.

Shapes: T numbers of tokens, 0..T-1.
"""

from __future__ import annotations

import math

import numpy as np

from ..cost.model import CostModel
from ..types import FloatArray
from . import (
    CHUNK_S,
    CHUNKS,
    COPY_S,
    CPU_CALL_S,
    CPU_S,
    CPU_SLOWDOWN,
    CPU_START_S,
    DENSE_S,
    GPU_CALL_S,
    GPU_S,
    HAS_GPU,
    LINK_SLOWDOWN,
    MACHINE,
)

FIRST_TOKENS = 16


def machine_of(cost: CostModel) -> FloatArray:
    """What does not depend on tokens: a copy and its chunks, slowdowns, whether there is a GPU, the lanes' calls."""
    profile, machine = cost.profile, np.zeros(MACHINE)
    machine[CPU_SLOWDOWN], machine[LINK_SLOWDOWN] = profile.cpu_slowdown, profile.h2d_slowdown
    machine[HAS_GPU], machine[CPU_CALL_S] = cost.has_gpu, cost.cpu_call_s()
    if cost.has_gpu and profile.h2d is not None:
        chunks = max(1, math.ceil(cost.geometry.expert_bytes / profile.h2d.chunk_bytes))
        machine[GPU_CALL_S], machine[CHUNKS] = cost.gpu_call_s(), chunks
        machine[COPY_S], machine[CHUNK_S] = cost.copy_s(), cost.copy_s() / chunks
    return machine


class Seconds:
    """Tables over the number of tokens, longer where a step has more of them, anew where the model was recalibrated.

    `machine`, a board's section, holds machine_of(cost) from the beginning, and is brought up to date with the tables.
    """

    def __init__(self, cost: CostModel, machine: FloatArray) -> None:
        self._cost = cost
        self._machine = machine
        self._version = cost.version
        self._seconds_4T, self._most = np.zeros((4, 0)), -1
        machine[:] = machine_of(cost)

    def table(self, num_tokens: int) -> FloatArray:
        """Seconds on the GPU and the CPU, of the dense part and the CPU lane's start: float64 [4, T > num_tokens]."""
        if num_tokens > self._most or self._version != self._cost.version:
            self._version = self._cost.version
            self._machine[:] = machine_of(self._cost)
            self._most = max(FIRST_TOKENS, 2 * num_tokens)
            self._seconds_4T = self._made(self._most)
        return self._seconds_4T

    def _made(self, most: int) -> FloatArray:
        cost, tokens = self._cost, np.arange(most + 1)
        seconds_4T = np.zeros((4, most + 1))
        seconds_4T[CPU_S] = cost.cpu_s(tokens)
        seconds_4T[CPU_START_S] = [cost.cpu_start_s(n) for n in tokens.tolist()]
        seconds_4T[DENSE_S] = [cost.dense_s(n) for n in tokens.tolist()]
        if cost.has_gpu:
            seconds_4T[GPU_S] = cost.gpu_s(tokens)
        return seconds_4T
