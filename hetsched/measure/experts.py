"""Experts to measure with: more of them than the last-level cache holds, so that every call reads fresh weights.

Without the rotation a small expert stays in the cache and looks several times as fast as it is in a model.
"""

from __future__ import annotations

from typing import Any

import torch

from ..cpu_kernels.base import ExpertKernel, SwigluWeights
from ..errors import InputError
from ..machine.memory import cache_bytes, free_bytes
from ..machine.profile import ExpertShape
from ..machine.sizes import show_bytes

CACHE_MULTIPLE = 4  # bytes to rotate through, over the last-level cache
MIN_POOL_BYTES = 256 << 20
MAX_POOL = 4096  # beyond it, experts of a few kB, making the pool would take longer than measuring
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pool_size(expert_bytes: int, cache: int, free: int) -> int:
    """Experts to rotate through: at least CACHE_MULTIPLE caches, at most a quarter of free memory and MAX_POOL.

    Never below two. Raises InputError where even these would not fit into free memory, each once more as it is packed.
    """
    if 4 * expert_bytes > free:
        raise InputError(
            f"one expert takes {show_bytes(expert_bytes)}, and measuring needs room for four of them: only "
            f"{show_bytes(free)} are free; choose a smaller model or geometry"
        )
    wanted = max(CACHE_MULTIPLE * cache, MIN_POOL_BYTES)
    return max(min(-(-wanted // expert_bytes), free // 4 // expert_bytes, MAX_POOL), 2)


class ExpertPool:
    """Equal experts in separate memory; `at(i)` gives the next one each time, packed for a kernel.

    Their values do not matter for timing, only that they are no denormals and that no two calls share memory.
    """

    def __init__(self, shape: ExpertShape, dtype: torch.dtype, device: str = "cpu", cache: int | None = None) -> None:
        expert_bytes = shape.params * dtype.itemsize
        free = free_bytes() if device == "cpu" else int(torch.cuda.mem_get_info()[0])
        self.count = pool_size(expert_bytes, cache or cache_bytes(), free)
        first = SwigluWeights(
            _weights(2 * shape.ffn, shape.hidden, dtype, device), _weights(shape.hidden, shape.ffn, dtype, device)
        )
        self.weights = [first, *(SwigluWeights(*(w.clone() for w in first)) for _ in range(self.count - 1))]
        self._packed: dict[str, list[Any]] = {}

    def at(self, number: int, kernel: ExpertKernel) -> Any:
        """Expert `number`, modulo the pool, as the kernel reads it."""
        if kernel.name not in self._packed:
            self._packed[kernel.name] = [kernel.pack(weights) for weights in self.weights]
        return self._packed[kernel.name][number % self.count]


def _weights(rows: int, columns: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    values: torch.Tensor = (torch.randn(rows, columns, generator=generator) * columns**-0.5).to(device, dtype)
    return values
