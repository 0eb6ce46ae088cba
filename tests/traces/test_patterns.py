"""Patterns are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.traces.patterns import PATTERNS, TOPIC_TOKENS, cyclic

SHAPE = (3, 12, 4)


@pytest.mark.parametrize("name", PATTERNS)
def test_shapes_seeds_and_distinct_choices(name: str) -> None:
    trace = PATTERNS[name](SHAPE, 200, 1)
    assert trace.experts_TLK.shape == (200, 3, 4)
    assert trace.num_experts == 12
    assert (np.diff(np.sort(trace.experts_TLK, axis=2), axis=2) > 0).all()
    np.testing.assert_array_equal(PATTERNS[name](SHAPE, 200, 1).experts_TLK, trace.experts_TLK)
    assert (PATTERNS[name](SHAPE, 200, 2).experts_TLK != trace.experts_TLK).any()


def _again(name: str) -> float:
    """Share of choices that the token before made too."""
    experts_TLK = PATTERNS[name](SHAPE, 400, 0).experts_TLK
    pairs = experts_TLK[1:, :, :, None] == experts_TLK[:-1, :, None, :]
    return float(pairs.any(axis=3).mean())


def test_what_was_just_used_comes_back_never_by_chance_or_often() -> None:
    assert _again("cyclic") == 0.0
    assert _again("anti-correlated") == 0.0
    assert _again("uniform") == pytest.approx(4 / 12, abs=0.03)
    assert _again("topic shifts") > 0.45


def test_a_cycle_asks_for_everyone_equally() -> None:
    counts_LE = PATTERNS["cyclic"](SHAPE, 300, 0).demand_LE(slice(0, 300))
    assert (counts_LE == 100).all()


def test_topics_have_favourites_of_their_own() -> None:
    trace = PATTERNS["topic shifts"](SHAPE, 8 * TOPIC_TOKENS, 0)
    topics = [trace.demand_LE(slice(i * TOPIC_TOKENS, (i + 1) * TOPIC_TOKENS)).argmax(axis=1) for i in range(8)]
    assert len({tuple(favourites_L) for favourites_L in topics}) > 4


def test_more_choices_than_experts_are_refused() -> None:
    with pytest.raises(InputError, match="5 choices of 4 experts"):
        cyclic((1, 4, 5), 10)
