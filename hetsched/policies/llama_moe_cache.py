"""llama-moe-cache: one LRU over the slots of all layers; every miss is fetched, but large steps pass the cache by.

The expert cache of mainline llama.cpp since October 2026. A step of more than 32 tokens asks for most experts and would
turn the cache over for nothing, so it neither reads into it nor counts as a use.

Approximated: what a large step misses llama.cpp streams through a buffer of its own; such bytes are in no budget here,
so it runs on the CPU.
"""

from __future__ import annotations

from ..errors import InputError
from .lru import OnDemandLru


class LlamaMoeCache(OnDemandLru):
    """One least-recently-used order. `most_tokens`: of a step that goes through the cache."""

    name = "llama-moe-cache"

    def __init__(self, most_tokens: int = 32) -> None:
        super().__init__()
        if most_tokens < 1:
            raise InputError(f"llama-moe-cache's most_tokens is {most_tokens}; it must be at least 1")
        self.most_tokens = most_tokens
