"""The compiled cache against a plain one, against stack distances, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetsched.evaluate.cache import HITS, LOADS, WASTED, fill, new_cache, serve
from hetsched.traces.reuse import ReuseCounter, hit_curve
from tests.evaluate.plain_cache import PlainCache, counted
from tests.traces.made import made

LAYERS, EXPERTS = 3, 8


def guesses_of(trace_tokens: int, count: int, seed: int) -> np.ndarray:
    """Random different guesses, likeliest first."""
    rng = np.random.default_rng(seed)
    return rng.random((trace_tokens, LAYERS, EXPERTS)).argsort(axis=2)[:, :, :count].astype(np.int16)


@given(
    slots=st.integers(0, LAYERS * EXPERTS),
    per_layer=st.booleans(),
    by_use=st.booleans(),
    guesses=st.integers(0, 4),
    seed=st.integers(0, 10),
)
def test_it_is_the_plain_cache(slots: int, per_layer: bool, by_use: bool, guesses: int, seed: int) -> None:
    """Every rule, size and number of guesses: the same hits, loads and waste."""
    trace = made(tokens=60, layers=LAYERS, experts=EXPERTS, seed=seed)
    guesses_TLG = guesses_of(60, guesses, seed)
    cache = new_cache(LAYERS, EXPERTS, slots, per_layer=per_layer, by_use=by_use)
    counts_T3 = serve(cache, EXPERTS, trace.experts_TLK, guesses_TLG)
    shared = [slots // LAYERS + (layer < slots % LAYERS) for layer in range(LAYERS)] if per_layer else [slots]
    plain = counted([PlainCache(count, by_use) for count in shared], trace.experts_TLK, guesses_TLG)
    assert counts_T3.sum(axis=0).tolist() == plain


def test_lru_hits_are_the_stack_distances() -> None:
    """Without guesses, one cache for all layers hits what one pass over reuse distances says, at every size."""
    trace = made(tokens=200, layers=LAYERS, experts=EXPERTS)
    counter = ReuseCounter(LAYERS * EXPERTS)
    offset_L1 = (EXPERTS * np.arange(LAYERS, dtype=np.int32))[:, None]
    counter.add((trace.experts_TLK + offset_L1).astype(np.int32).ravel())
    curve_D1 = hit_curve(counter.lru_D1)
    requests = trace.experts_TLK.size
    for slots in range(LAYERS * EXPERTS + 1):
        counts_T3 = serve(new_cache(LAYERS, EXPERTS, slots), EXPERTS, trace.experts_TLK, guesses_of(200, 0, 0))
        assert counts_T3[:, HITS].sum() == round(curve_D1[slots] * requests)
        assert counts_T3[:, LOADS].sum() == requests - counts_T3[:, HITS].sum()


def test_by_hand() -> None:
    """One layer, two slots. Guess 1, asked for 0: 1 loaded for nothing in the end, since 2 drives it out."""
    chosen_TLK = np.array([[[0]], [[2]], [[0]]], np.int16)
    guesses_TLG = np.array([[[1]], [[-1]], [[0]]], np.int16)
    counts_T3 = serve(new_cache(1, 4, 2), 4, chosen_TLK, guesses_TLG)
    assert counts_T3[:, HITS].tolist() == [0, 0, 1]
    assert counts_T3[:, LOADS].tolist() == [2, 1, 0]
    assert counts_T3[:, WASTED].tolist() == [0, 1, 0]


def test_frequent_ones_stay_in_lfu_and_leave_lru() -> None:
    """0 twice, then 1, 2 through two slots: LFU still has 0, LRU has not."""
    chosen_TLK = np.array([0, 0, 1, 2, 0], np.int16)[:, None, None]
    none_TL0 = np.zeros((5, 1, 0), np.int16)
    for by_use in (True, False):
        counts_T3 = serve(new_cache(1, 4, 2, by_use=by_use), 4, chosen_TLK, none_TL0)
        assert counts_T3[-1, HITS] == by_use


@pytest.mark.parametrize("slots", [2, 5])
def test_filled_experts_leave_in_order(slots: int) -> None:
    """Prefilled ones are hits, are not counted as loads, and the first one put in goes first."""
    cache = new_cache(1, 8, slots)
    fill(cache, np.arange(slots, dtype=np.int64))
    chosen_TLK = np.array([7, slots - 1, 0], np.int16)[:, None, None]
    counts_T3 = serve(cache, 8, chosen_TLK, np.zeros((3, 1, 0), np.int16))
    assert counts_T3[:, HITS].tolist() == [0, 1, 0]
    assert counts_T3[:, LOADS].tolist() == [1, 0, 1]
    assert counts_T3[:, WASTED].sum() == 0
