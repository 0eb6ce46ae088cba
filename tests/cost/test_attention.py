"""Attention over a context: pairs by brute force, bytes by what the cache holds, and dense time with it inside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetsched.cost.attention import attended, attention_s
from hetsched.cost.model import CostModel
from hetsched.geometry import from_config
from hetsched.machine import gallery
from hetsched.machine.profile import Processor
from hetsched.memory.context import ContextShape, LayerCache, context_shape

DEVICE = Processor("a GPU", 2**35, 1e11, 1e13, 1e-5)
FULL, WINDOW = LayerCache("full", per_token=64), LayerCache("sliding", per_token=64, window=8)
STATE, NONE = LayerCache("linear", fixed=4096), LayerCache("none")


@given(tokens=st.integers(1, 40), context=st.integers(0, 40), window=st.sampled_from([None, 1, 8, 100]))
def test_pairs_are_counted_one_by_one(tokens: int, context: int, window: int | None) -> None:
    """Token i of a step sees those before it and itself, as far back as the window."""
    layer = LayerCache("some", per_token=2, window=window)
    seen = [context + i + 1 if window is None else min(context + i + 1, window) for i in range(tokens)]
    assert attended(layer, tokens, context) == pytest.approx(sum(seen), abs=tokens if window else 0)


def test_one_token_reads_the_cache() -> None:
    """Its bytes over the rate: all of a full layer's, the window's, a state twice, of no attention nothing."""
    shape = ContextShape((FULL, FULL, WINDOW, STATE, NONE), query=1)
    elements = 2 * 64 * 1001 + 64 * 8 + 2 * 4096
    assert attention_s(DEVICE, shape, 1, 1000) == pytest.approx(2 * elements / 1e11)
    assert attention_s(DEVICE, shape, 1, 1000, element_bytes=1, batch=3) == pytest.approx(3 * elements / 1e11)
    assert attention_s(DEVICE, ContextShape(), 1, 1000) == 0.0


def test_many_tokens_are_bound_by_products() -> None:
    """Two products of the queries' width for each pair: 4 n(n + 1)/2 FLOPs a number."""
    shape = ContextShape((FULL,), query=4096)
    assert attention_s(DEVICE, shape, 2000, 0) == pytest.approx(4 * 4096 * 2000 * 2001 / 2 / 1e13)


def test_dense_time_holds_the_context_only_where_asked() -> None:
    """Without a context, or a shape, it is what it was; corrected like the rest of the dense part."""
    config = gallery.model_config("gpt-oss-20b")
    geometry, profile = from_config(config), gallery.machine("rtx-4060-laptop-8gb")
    plain, cost = CostModel(profile, geometry), CostModel(profile, geometry, context_shape(config))
    assert cost.dense_s(1) == plain.dense_s(1) == plain.dense_s(1, context=32_768)
    assert profile.gpu is not None
    whole_s = attention_s(profile.gpu, context_shape(config), 1, 32_768)
    assert cost.dense_s(1, context=32_768) - cost.dense_s(1) == pytest.approx(whole_s / 24)
    before_s = cost.dense_s(1, context=32_768)
    cost.recalibrate({"dense": 3.0})
    assert cost.dense_s(1, context=32_768) == pytest.approx(3 * before_s)
