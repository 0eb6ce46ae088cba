"""Figures of a trace against direct counting, real caches, and closed forms."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.report.trace_plot import plot_trace
from hetsched.traces.reuse import ReuseCounter, hit_curve
from hetsched.traces.summary import sample_runs, summarise
from tests.traces.made import made


def requests(seed: int, keys: int, count: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Skewed requests whose favourites change half-way."""
    rng = np.random.default_rng(seed)
    share = np.arange(1, keys + 1) ** -1.0
    halves = [rng.choice(rng.permutation(keys), count // 2, p=share / share.sum()) for _ in range(2)]
    return np.concatenate(halves).astype(np.int32)


def counted(keys_N: np.ndarray[Any, Any], keys: int, pieces: int) -> ReuseCounter:
    counter = ReuseCounter(keys)
    for piece in np.array_split(keys_N, pieces):
        counter.add(piece)
    return counter


def lru_hits(keys_N: np.ndarray[Any, Any], capacity: int) -> int:
    """An LRU cache, run."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in keys_N.tolist():
        hits += key in cache
        cache[key] = None
        cache.move_to_end(key)
        if len(cache) > capacity:
            cache.popitem(last=False)
    return hits


def lfu_hit_bounds(keys_N: np.ndarray[Any, Any], capacity: int) -> tuple[int, int]:
    """Fewest and most hits of a cache of the keys counted most often so far, over all ways to break ties."""
    counts: Counter[int] = Counter()
    sure = possible = 0
    for key in keys_N.tolist():
        if counts[key]:
            others = [count for other, count in counts.items() if other != key]
            sure += sum(count >= counts[key] for count in others) < capacity
            possible += sum(count > counts[key] for count in others) < capacity
        counts[key] += 1
    return sure, possible


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("keys", [1, 5, 24])
def test_lru_is_that_of_running_caches(keys: int, pieces: int) -> None:
    """Every capacity, also where places in time are numbered anew many times over."""
    keys_N = requests(keys, keys, 2_000)
    counter = counted(keys_N, keys, pieces)
    curve_D1 = hit_curve(counter.lru_D1)
    for capacity in range(1, keys + 1):
        assert curve_D1[capacity] * len(keys_N) == pytest.approx(lru_hits(keys_N, capacity))
    assert curve_D1[0] == 0
    assert counter.lru_D1[-1] == len(set(keys_N.tolist()))


@pytest.mark.parametrize("pieces", [1, 7])
def test_lfu_lies_between_its_ways_to_break_ties(pieces: int) -> None:
    keys_N = requests(3, 12, 600)
    curve_D1 = hit_curve(counted(keys_N, 12, pieces).lfu_D1)
    for capacity in range(1, 13):
        sure, possible = lfu_hit_bounds(keys_N, capacity)
        assert sure <= round(curve_D1[capacity] * len(keys_N)) <= possible
        assert possible - sure < 0.15 * len(keys_N)  # so the bounds say something


def test_a_cycle_is_the_worst_case_of_lru() -> None:
    """Six keys in turn: no hit below six, all but the first six at six."""
    curve_D1 = hit_curve(counted(np.tile(np.arange(6), 100).astype(np.int32), 6, 3).lru_D1)
    assert curve_D1.tolist() == [0, 0, 0, 0, 0, 0, pytest.approx(594 / 600)]


def test_repeats_and_entropy_by_counting() -> None:
    """Pairs of neighbours in one sequence; entropy of the shares of choices."""
    trace = made(tokens=200, layers=2, experts=8, top_k=3, sequences=7)
    found = summarise(trace)
    for layer in range(2):
        rows = [set(row) for row in trace.experts_TLK[:, layer].tolist()]
        pairs = [t for t in range(199) if trace.sequence_T[t] == trace.sequence_T[t + 1]]
        assert found.repeat_L[layer] == pytest.approx(np.mean([len(rows[t] & rows[t + 1]) / 3 for t in pairs]))
        share_E = np.bincount(trace.experts_TLK[:, layer].ravel(), minlength=8) / 600
        assert found.entropy_bits_L[layer] == pytest.approx(-(share_E * np.log2(share_E)).sum())
        assert found.independent_L[layer] == pytest.approx(3 * (share_E**2).sum())
    assert (found.tokens, found.sequences, found.phases) == (200, 7, {"decode": 200})
    assert found.sampled_tokens == 200


def test_constant_and_even_routing() -> None:
    """One expert always: no entropy, always repeated. All in turn: full entropy, never repeated."""
    always = replace(made(top_k=1), experts_TLK=np.full((40, 3, 1), 5, np.int16))
    found = summarise(always)
    assert found.entropy_bits_L.tolist() == [0, 0, 0]
    assert found.repeat_L.tolist() == found.independent_L.tolist() == [1, 1, 1]
    in_turn = np.broadcast_to((np.arange(40) % 8)[:, None, None], (40, 3, 1)).astype(np.int16)
    found = summarise(replace(always, experts_TLK=in_turn))
    assert found.entropy_bits_L.tolist() == [3, 3, 3]
    assert found.repeat_L.tolist() == [0, 0, 0]
    assert found.independent_L.tolist() == [1 / 8] * 3


def test_long_traces_are_sampled_and_say_so() -> None:
    """Runs lie inside, do not overlap and cover both ends; a sample comes close to the whole."""
    runs = sample_runs(1_000_000, 8_000)
    assert (runs[0].start, runs[-1].stop) == (0, 1_000_000)
    assert all(a.stop <= b.start for a, b in pairwise(runs))
    trace = made(tokens=20_000, layers=2, experts=8, top_k=2, sequences=50)
    whole, part = summarise(trace), summarise(trace, sample_tokens=8_000)
    assert (whole.sampled_tokens, part.sampled_tokens) == (20_000, 8_000)
    assert (part.tokens, part.sequences) == (20_000, 50)
    np.testing.assert_allclose(part.repeat_L, whole.repeat_L, atol=0.02)
    np.testing.assert_allclose(part.lru_D1, whole.lru_D1, atol=0.02)


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    """Written as asked; other formats and unwritable places are errors."""
    summary = summarise(made())
    plot_trace("t", summary, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").stat().st_size > 5_000
    with pytest.raises(InputError, match="cannot draw"):
        plot_trace("t", summary, tmp_path / "plot.txt")
    with pytest.raises(InputError, match="cannot be written: there is no folder"):
        plot_trace("t", summary, tmp_path / "absent" / "plot.png")
