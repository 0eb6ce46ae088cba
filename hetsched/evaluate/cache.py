"""Cache: LRU or LFU of any size, for all layers together or for each, with guesses inserted before a layer is counted.

A model without time, as papers use it: an expert is there at once, and every expert that was asked for is kept. What
it costs to bring them is counted, in experts. In one visit of a layer the guesses are inserted first, the likeliest
last, then the experts asked for are counted one after another and inserted. What one visit inserts or asks for gives
way last, whatever the rule; counts of LFU outlive eviction, guesses do not count as uses, and of equals the least
recently used gives way.

Priorities are kept in binary heaps (Williams 1964, "Algorithm 232"), one for each group of experts that share slots.

Shapes: T tokens, L layers, E experts, K choices, G guesses, D = L * E experts of all layers, Q groups, C slots.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..jit import borrowed, compiled_and_kept, compiled_lean
from ..types import IntArray

HITS, LOADS, WASTED = range(3)
PINNED = 1 << 62  # above every priority: count * 2 ** 40 + time
USES = 40  # places below the count


class Cache(NamedTuple):
    """`heap_QC`: experts by ascending priority; `place_D`: where in it each is, -1 absent; `used_D`: uses so far.

    `unused_D`: guessed, inserted, and not asked for yet. `clock`: one number, accesses so far. `slots_Q`, `size_Q`:
    places of a group, and how many are taken. `by_use`: LFU.
    """

    heap_QC: IntArray
    place_D: IntArray
    priority_D: IntArray
    used_D: IntArray
    unused_D: npt.NDArray[np.bool_]
    slots_Q: IntArray
    size_Q: IntArray
    clock: IntArray
    by_use: bool


def new_cache(layers: int, experts: int, slots: int, *, per_layer: bool = False, by_use: bool = False) -> Cache:
    """An empty cache of `slots` experts, for all layers together or shared out among them, first layers first."""
    groups = layers if per_layer else 1
    slots_Q = slots // groups + (np.arange(groups) < slots % groups)
    priority_D, used_D = np.zeros((2, layers * experts), np.int64)
    return Cache(
        heap_QC=np.zeros((groups, max(1, int(slots_Q.max()))), np.int64),
        place_D=np.full(layers * experts, -1, np.int64),
        priority_D=priority_D,
        used_D=used_D,
        unused_D=np.zeros(layers * experts, np.bool_),
        slots_Q=slots_Q.astype(np.int64),
        size_Q=np.zeros(groups, np.int64),
        clock=np.zeros(1, np.int64),
        by_use=by_use,
    )


def serve(
    cache: Cache, experts: int, chosen_TLK: npt.NDArray[np.int16], guesses_TLG: npt.NDArray[np.int16]
) -> IntArray:
    """Serve tokens, layer by layer: hits, experts loaded, and loaded guesses that left unused, int64 [T, 3].

    Guesses of -1 are none; an array without any has G = 0. The cache goes on from where it is.
    """
    counts_T3 = np.zeros((len(chosen_TLK), 3), np.int64)
    _serve(cache, experts, np.ascontiguousarray(chosen_TLK), np.ascontiguousarray(guesses_TLG), counts_T3)
    return counts_T3


@compiled_and_kept
def fill(cache: Cache, keys_N: IntArray) -> None:
    """Put experts (layer * E + expert) into the slots of the first group, in order, the last one most recent."""
    lean = _uncounted(cache)
    for key in keys_N:
        _touch(lean, key, 0, False, False)
        _release(lean, key, 0)


@compiled_and_kept
def _serve(
    cache: Cache,
    experts: int,
    chosen_TLK: npt.NDArray[np.int16],
    guesses_TLG: npt.NDArray[np.int16],
    counts_T3: IntArray,
) -> None:
    lean = _uncounted(cache)
    for t in range(len(chosen_TLK)):
        for l in range(chosen_TLK.shape[1]):
            group = l if len(cache.slots_Q) > 1 else 0
            _visit(lean, l * experts, group, chosen_TLK[t, l], guesses_TLG[t, l], counts_T3[t])


@compiled_lean
def _uncounted(cache: Cache) -> Cache:
    return Cache(
        borrowed(cache.heap_QC),
        borrowed(cache.place_D),
        borrowed(cache.priority_D),
        borrowed(cache.used_D),
        borrowed(cache.unused_D),
        borrowed(cache.slots_Q),
        borrowed(cache.size_Q),
        borrowed(cache.clock),
        cache.by_use,
    )


@compiled_lean
def _visit(
    cache: Cache,
    first: int,
    group: int,
    chosen_K: npt.NDArray[np.int16],
    guesses_G: npt.NDArray[np.int16],
    counts_3: IntArray,
) -> None:
    """One layer of one token: `first` is the number of its first expert."""
    for g in range(len(guesses_G) - 1, -1, -1):
        if guesses_G[g] >= 0:
            _count(counts_3, _touch(cache, first + guesses_G[g], group, False, True))
    for expert in chosen_K:
        counts_3[HITS] += cache.place_D[first + expert] >= 0
        _count(counts_3, _touch(cache, first + expert, group, True, False))
    for guess in guesses_G:
        if guess >= 0:
            _release(cache, first + guess, group)
    for expert in chosen_K:
        _release(cache, first + expert, group)


@compiled_lean
def _count(counts_3: IntArray, happened: int) -> None:
    """0 nothing, 1 a load, 2 a load that drove out an unused guess."""
    counts_3[LOADS] += happened > 0
    counts_3[WASTED] += happened > 1


@compiled_lean
def _touch(cache: Cache, key: int, group: int, is_use: bool, is_guess: bool) -> int:
    """An expert is asked for, or guessed: it is there afterwards, pinned, unless there is no slot at all."""
    cache.clock[0] += 1
    happened = 0
    if cache.place_D[key] < 0:
        happened = 1
        if cache.slots_Q[group] == 0:
            return happened
        if cache.size_Q[group] == cache.slots_Q[group]:
            leaves = cache.heap_QC[group, 0]
            happened += cache.unused_D[leaves]
            cache.place_D[leaves], cache.unused_D[leaves] = -1, False
            place = 0
        else:
            place = cache.size_Q[group]
            cache.size_Q[group] += 1
        cache.heap_QC[group, place], cache.place_D[key] = key, place
        cache.unused_D[key] = is_guess
    if is_use:
        cache.used_D[key] += 1
        cache.unused_D[key] = False
    cache.priority_D[key] = PINNED | cache.clock[0] | ((cache.used_D[key] << USES) if cache.by_use else 0)
    _sink(cache, group, cache.place_D[key])
    _rise(cache, group, cache.place_D[key])
    return happened


@compiled_lean
def _release(cache: Cache, key: int, group: int) -> None:
    """The visit is over."""
    if cache.place_D[key] >= 0:
        cache.priority_D[key] &= ~PINNED
        _rise(cache, group, cache.place_D[key])


@compiled_lean
def _sink(cache: Cache, group: int, place: int) -> None:
    heap_C, size = cache.heap_QC[group], cache.size_Q[group]
    key = heap_C[place]
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        if below + 1 < size and cache.priority_D[heap_C[below + 1]] < cache.priority_D[heap_C[below]]:
            below += 1
        if cache.priority_D[key] <= cache.priority_D[heap_C[below]]:
            break
        heap_C[place] = heap_C[below]
        cache.place_D[heap_C[place]] = place
        place = below
    heap_C[place], cache.place_D[key] = key, place


@compiled_lean
def _rise(cache: Cache, group: int, place: int) -> None:
    heap_C = cache.heap_QC[group]
    key = heap_C[place]
    while place > 0:
        above = (place - 1) // 2
        if cache.priority_D[heap_C[above]] <= cache.priority_D[key]:
            break
        heap_C[place] = heap_C[above]
        cache.place_D[heap_C[place]] = place
        place = above
    heap_C[place], cache.place_D[key] = key, place
