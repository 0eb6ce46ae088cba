"""The rule that tells prefill, decode and verify apart, call by call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, Qwen3NextConfig, StaticCache

import hetsched
from hetsched.integrations.phases import VERIFY_MOST, begins_request, phase_of_call
from hetsched.types import Phase
from tests.conftest import tiny_moe

from .generating import ALONE, EMULATED, passes


def filled(tokens: int) -> DynamicCache:
    """A cache of one layer with this many tokens."""
    cache = DynamicCache()
    if tokens:
        cache.update(torch.zeros(1, 1, tokens, 2), torch.zeros(1, 1, tokens, 2), 0)
    return cache


@pytest.mark.parametrize(
    ("new", "past", "keep", "phase"),
    [
        (9, 0, 1, Phase.PREFILL),
        (1, 0, 1, Phase.PREFILL),
        (1, 9, 1, Phase.DECODE),
        (1, 9, None, Phase.DECODE),
        (4, 9, 4, Phase.VERIFY),
        (4, 9, torch.arange(4), Phase.VERIFY),
        (4, 9, 1, Phase.PREFILL),  # a chunk of a prompt, or a chat's next turn
        (4, 9, None, Phase.VERIFY),
        (VERIFY_MOST, 9, 0, Phase.VERIFY),
        (VERIFY_MOST + 1, 9, 0, Phase.PREFILL),
    ],
)
def test_the_rule(new: int, past: int, keep: Any, phase: Phase) -> None:
    """By new tokens, tokens in the cache, and the logits asked for."""
    for batch in (1, 3):
        ids = torch.zeros((batch, new), dtype=torch.int64)
        call = {"past_key_values": filled(past), "logits_to_keep": keep}
        assert phase_of_call((), {"input_ids": ids, **call}) is phase
        assert phase_of_call((ids,), call) is phase
        assert phase_of_call((), {"inputs_embeds": torch.zeros(batch, new, 8), **call}) is phase
        assert phase_of_call((), {"input_ids": ids[:, :1], "decoder_input_ids": ids, **call}) is phase


def test_calls_that_do_not_say() -> None:
    ids = torch.zeros((1, 5), dtype=torch.int64)
    assert phase_of_call((), {}) is None
    assert phase_of_call((), {"input_ids": ids[0]}) is None
    assert phase_of_call((), {"input_ids": ids}) is Phase.PREFILL
    assert phase_of_call((), {"input_ids": ids, "cache": object()}) is Phase.UNKNOWN


@pytest.mark.parametrize(
    ("new", "past", "more", "begins"),
    [
        (9, 0, {}, True),
        (1, 0, {}, True),
        (1, 9, {}, False),
        (4, 9, {"logits_to_keep": 1}, False),  # a chunk of a prompt, or a chat's next turn
        (9, 0, {"use_cache": False}, False),  # each pass of a generation without a cache is such a one
        (9, 0, {"past_key_values": None, "cache": object()}, False),  # continuous batching
    ],
)
def test_where_a_request_begins(new: int, past: int, more: dict[str, Any], begins: bool) -> None:
    ids = torch.zeros((1, new), dtype=torch.int64)
    call = {"past_key_values": filled(past), **more}
    assert begins_request((), {"input_ids": ids, **call}) is begins
    assert begins_request((ids,), call) is begins
    assert begins_request((), {}) is False


def test_a_static_cache_is_filled_by_what_was_written() -> None:
    """It holds room for all tokens from the start, and its length is a tensor."""
    model = tiny_moe()
    cache = StaticCache(config=model.config, max_cache_len=16)
    call = {"input_ids": ALONE, "past_key_values": cache}
    assert phase_of_call((), call) is Phase.PREFILL
    with torch.no_grad():
        model(**call)
    assert phase_of_call((), call | {"input_ids": ALONE[:, :1]}) is Phase.DECODE


def test_a_cache_of_linear_attention_has_no_length() -> None:
    """Such a cache raises when asked; it still knows whether it has seen anything."""
    cache = DynamicCache(config=Qwen3NextConfig(num_hidden_layers=1, layer_types=["linear_attention"]))
    ids = torch.zeros((1, 1), dtype=torch.int64)
    assert phase_of_call((), {"input_ids": ids, "past_key_values": cache}) is Phase.PREFILL
    cache.layers[0].update_conv_state(torch.zeros(1, 4, 4))
    assert phase_of_call((), {"input_ids": ids, "past_key_values": cache}) is Phase.DECODE


def test_an_inner_model_called_alone_is_not_taken_for_the_last_call() -> None:
    """After a decode pass of the whole model, its decoder alone computes a prompt."""
    model = tiny_moe()
    with torch.no_grad(), hetsched.attach(model, **EMULATED) as handle, passes(handle) as seen:
        cache = model(ALONE).past_key_values
        model(ALONE[:, :1], past_key_values=cache)
        model.model(ALONE)
    assert seen == [(Phase.PREFILL, 12), (Phase.DECODE, 1), (Phase.PREFILL, 12)]
