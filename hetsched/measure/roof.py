"""The roof of CPU experts: the rate at which all compute threads together read memory."""

from __future__ import annotations

import torch

from ..machine.memory import cache_bytes, free_bytes
from .timing import time_calls


def read_bytes_per_s(budget_s: float) -> float:
    """Rate at which all compute threads together read memory that is in no cache: the roof of CPU experts."""
    values = min(max(8 * cache_bytes(), 256 << 20), free_bytes() // 4) // 8
    memory = torch.ones(values, dtype=torch.int64)
    timing = time_calls(lambda _: memory.sum(), budget_s)
    return values * 8 / timing.median_s
