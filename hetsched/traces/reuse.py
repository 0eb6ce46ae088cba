"""Hits of LRU and LFU caches of every capacity at once, from one pass over the experts that a trace asks for.

A cache holds N experts of any layer; the stream asks for one after another: by token, layer, and stored order in a row.

LRU: the stack distance of a request is the number of different experts asked for since this one was last asked for, and
a cache of N hits exactly the distances below N (Mattson et al. 1970, "Evaluation techniques for storage hierarchies").
Distances are sums over a Fenwick tree of the places in time at which some expert was last asked for; places are
numbered anew when they run out, so that the tree stays as small as the number of experts.

LFU: a cache of N holds the N experts asked for most often so far, since the start of the stream; a newcomer takes the
place of the least used one when its count exceeds that one's (it passes by otherwise). A request's distance is then its
expert's rank by count. Counts grow by one, so the ranking is kept with one exchange a request.

Shapes: N requests, D experts of all layers, M places in time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..jit import compiled_and_kept
from ..types import FloatArray, IntArray


class ReuseCounter:
    """Counts requests by LRU and LFU distance: `lru_D1` and `lfu_D1` int64 [D + 1], whose last entry is first uses."""

    def __init__(self, num_keys: int) -> None:
        self.lru_D1, self.lfu_D1 = np.zeros(num_keys + 1, np.int64), np.zeros(num_keys + 1, np.int64)
        places = 4 * num_keys + 1
        self._last_D = np.full(num_keys, -1, np.int64)
        self._key_M = np.full(places, -1, np.int64)
        self._tree_M = np.zeros(places + 1, np.int64)
        self._next = np.zeros(1, np.int64)
        self._count_D = np.zeros(num_keys, np.int64)
        self._rank_D, self._ranked_D = np.arange(num_keys), np.arange(num_keys)
        self._first = np.zeros(1, np.int64)

    def add(self, keys_N: npt.NDArray[np.int32]) -> None:
        """Go on with more requests."""
        _count_lru(keys_N, self.lru_D1, self._last_D, self._key_M, self._tree_M, self._next)
        most = int(self._count_D.max(initial=0)) + len(keys_N) + 2
        self._first = np.concatenate([self._first, np.zeros(max(0, most - len(self._first)), np.int64)])
        _count_lfu(keys_N, self.lfu_D1, self._count_D, self._rank_D, self._ranked_D, self._first)


def hit_curve(distances_D1: IntArray) -> FloatArray:
    """Hit rate of every capacity from 0 to D experts, float64 [D + 1]."""
    hits_D1 = np.concatenate([[0], np.cumsum(distances_D1[:-1])])
    return hits_D1 / max(int(distances_D1.sum()), 1)


@compiled_and_kept
def _count_lru(
    keys_N: npt.NDArray[np.int32],
    counts_D1: IntArray,
    last_D: IntArray,
    key_M: IntArray,
    tree_M: IntArray,
    next_place: IntArray,
) -> None:
    M, D = len(key_M), len(last_D)
    place, live = next_place[0], 0
    for d in range(D):
        live += last_D[d] >= 0
    for key in keys_N:
        if place == M:  # close the gaps: live places move to the front in order, and the tree is built anew
            place = 0
            for m in range(M):
                if key_M[m] >= 0:
                    moved = key_M[m]
                    key_M[m] = -1
                    key_M[place] = moved
                    last_D[moved] = place
                    place += 1
            for m in range(1, M + 1):
                low = m - (m & -m)
                tree_M[m] = min(m, place) - min(low, place)
        before = last_D[key]
        if before < 0:
            counts_D1[D] += 1
            live += 1
        else:
            upto, m = 0, before + 1
            while m > 0:
                upto += tree_M[m]
                m -= m & -m
            counts_D1[live - upto] += 1
            key_M[before] = -1
            m = before + 1
            while m <= M:
                tree_M[m] -= 1
                m += m & -m
        last_D[key], key_M[place] = place, key
        m = place + 1
        while m <= M:
            tree_M[m] += 1
            m += m & -m
        place += 1
    next_place[0] = place


@compiled_and_kept
def _count_lfu(
    keys_N: npt.NDArray[np.int32],
    counts_D1: IntArray,
    count_D: IntArray,
    rank_D: IntArray,
    ranked_D: IntArray,
    first: IntArray,
) -> None:
    """`first[c]` is the first rank of the experts asked for c times, right where there are any."""
    D = len(count_D)
    for key in keys_N:
        count, rank = count_D[key], rank_D[key]
        counts_D1[rank if count > 0 else D] += 1
        top = first[count]
        other = ranked_D[top]
        ranked_D[top], ranked_D[rank] = key, other
        rank_D[key], rank_D[other] = top, rank
        count_D[key] = count + 1
        first[count] = top + 1
        if top == 0 or count_D[ranked_D[top - 1]] != count + 1:
            first[count + 1] = top
