"""Oracle: most hits that any cache of equal slots can have, knowing all requests: Belady's rule with bypass.

Belady 1966 (MIN); with bypass the newcomer competes too: of the cached experts and the requested one, the one whose
next request is farthest is left out. That is optimal for equal sizes and costs when a miss need not be cached.
"""

from __future__ import annotations

import heapq

import numpy as np

from hetsched.types import IntArray


def next_requests(requests_R: IntArray) -> IntArray:
    """Index of the next request of the same expert [R]; R where there is none."""
    count = len(requests_R)
    order_R = np.argsort(requests_R, kind="stable")
    next_R = np.full(count, count, np.int64)
    same = np.diff(requests_R[order_R]) == 0
    next_R[order_R[:-1][same]] = order_R[1:][same]
    return next_R


def belady_bypass(requests_R: IntArray, num_slots: int) -> int:
    """Hits of the offline optimum, from an empty cache, for `requests_R`: flat expert ids in order of demand.

    A hit is a request of an expert that is cached; only a requested expert can be brought in (no prefetch).
    """
    count = len(requests_R)
    next_of = next_requests(np.asarray(requests_R)).tolist()
    cached_until: dict[int, int] = {}  # expert -> its next request
    farthest: list[tuple[int, int]] = []  # (-next request, expert), with entries that are out of date
    hits = 0
    for now, expert in enumerate(np.asarray(requests_R).tolist()):
        hits += expert in cached_until
        cached_until.pop(expert, None)
        if next_of[now] == count or num_slots == 0:
            continue
        cached_until[expert] = next_of[now]
        heapq.heappush(farthest, (-next_of[now], expert))
        if len(cached_until) > num_slots:
            _drop_farthest(cached_until, farthest)
    return hits


def _drop_farthest(cached_until: dict[int, int], farthest: list[tuple[int, int]]) -> None:
    """Leave out the expert that is requested last, be it the newcomer."""
    while True:
        negative_next, expert = heapq.heappop(farthest)
        if cached_until.get(expert) == -negative_next:
            del cached_until[expert]
            return
