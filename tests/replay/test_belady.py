"""Belady with bypass against every possible cache."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tests.oracles.belady import belady_bypass


def best_hits(requests: tuple[int, ...], slots: int) -> int:
    """Most hits over all choices of what to keep after each request, by exhaustion."""

    @cache
    def hits(now: int, cached: frozenset[int]) -> int:
        if now == len(requests):
            return 0
        expert = requests[now]
        options = [cached]
        if expert not in cached:
            options += [cached - {victim} | {expert} for victim in cached] if len(cached) == slots else []
            options += [cached | {expert}] if len(cached) < slots else []
        return (expert in cached) + max(hits(now + 1, after) for after in options)

    return hits(0, frozenset())


@pytest.mark.parametrize("seed", range(40))
def test_it_is_the_best_of_all_caches(seed):
    rng = np.random.default_rng(seed)
    requests_R, slots = rng.integers(0, rng.integers(2, 6), 14), int(rng.integers(0, 4))
    assert belady_bypass(requests_R, slots) == best_hits(tuple(requests_R.tolist()), slots)


def test_a_scan_bypasses_what_is_kept():
    """One slot, 0 between others that never return: every return of 0 hits, which without bypass none would."""
    assert belady_bypass(np.array([0, 1, 0, 2, 0, 3, 0]), 1) == 3


def test_no_requests():
    assert belady_bypass(np.zeros(0, int), 3) == 0
