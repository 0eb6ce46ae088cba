"""What a config says of its context, against the cache that transformers really fills."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, DynamicCache

from hetsched.errors import InputError
from hetsched.memory.context import ContextShape, LayerCache, context_shape

from ..architectures.tiny import tiny_config

FOUR = {"num_hidden_layers": 4}
TOKENS = 20
# Every kind of attention, of models that have one or several of them.
ARCHITECTURES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "mixtral": ({}, {"full"}),
    "qwen3_moe": ({}, {"full"}),
    "gpt_oss": (FOUR, {"sliding", "full"}),
    "deepseek_v2": ({}, {"latent"}),
    "glm4_moe_lite": ({}, {"latent"}),
    "qwen3_next": (FOUR, {"linear", "full"}),
    "jamba": ({**FOUR, "attn_layer_period": 2, "attn_layer_offset": 1}, {"linear", "full"}),
    "granitemoehybrid": (
        {"num_hidden_layers": 2, "layer_types": ["mamba", "attention"], "mamba_n_heads": 4, "mamba_d_head": 16},
        {"linear", "full"},
    ),
    "lfm2_moe": ({**FOUR, "layer_types": ["conv", "full_attention"] * 2, "intermediate_size": 32}, {"linear", "full"}),
    "nemotron_h": ({}, {"linear", "none", "full"}),
    "gemma4_text": (FOUR, {"sliding", "full"}),
}


def held_bytes(cache: Any) -> int:
    """Bytes of every tensor of a cache."""
    found: list[torch.Tensor | None] = []
    for layer in cache.layers:
        found += [getattr(layer, "keys", None), getattr(layer, "values", None)]
        for name in ("conv_states", "recurrent_states"):
            states = getattr(layer, name, None) or {}
            found += states.values() if isinstance(states, dict) else states
    return sum(tensor.numel() * tensor.element_size() for tensor in found if tensor is not None)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bytes_are_those_of_the_cache(name: str) -> None:
    changes, kinds = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(CONFIG_MAPPING[name], changes)).eval()
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.randint(3, 90, (2, TOKENS)), past_key_values=cache, use_cache=True)
    shape = context_shape(model.config)
    assert set(shape.kinds) == kinds
    windowed = [layer.per_token for layer in shape.layers if layer.window is not None and layer.window < TOKENS]
    # Of a window, transformers keeps all but the token that is to come.
    assert shape.cache_bytes(TOKENS, 2, 4) - 2 * 4 * sum(windowed) == held_bytes(cache)


LAYERS = st.builds(
    LayerCache,
    st.just("full"),
    st.integers(0, 4096),
    st.none() | st.integers(1, 512),
    st.integers(0, 4096),
)
SHAPES = st.builds(ContextShape, st.lists(LAYERS, max_size=8).map(tuple), longest=st.integers(1, 5000))


@given(SHAPES, st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 8))
def test_more_context_never_takes_less(shape: ContextShape, fewer: int, more: int, batch: int) -> None:
    low, high = sorted((fewer, more))
    assert shape.cache_bytes(low, batch) <= shape.cache_bytes(high, batch)
    assert shape.cache_bytes(high, batch) == batch * shape.cache_bytes(high)
    assert shape.cache_bytes(0, batch) == 0


def test_a_plain_config_file() -> None:
    """By hand: Mixtral 8x7B's 32 layers of 8 key-value heads of 128, 16 bits: 128 KiB a token."""
    config = {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "sliding_window": None,
        "vocab_size": 32000,
        "num_local_experts": 8,
    }
    shape = context_shape(config)
    assert shape.cache_bytes(1) == 128 * 1024
    assert (shape.query, shape.vocab) == (4096, 32000)
    windowed = context_shape({**config, "sliding_window": 1000})
    assert windowed.cache_bytes(5000) == windowed.cache_bytes(1000) == 1000 * 128 * 1024
    assert context_shape({**config, "sliding_window": 1000, "use_sliding_window": False}) == shape
    some = context_shape({**config, "sliding_window": 1000, "use_sliding_window": True, "max_window_layers": 20})
    assert some.kinds == {"full": 20, "sliding": 12}
    shared = context_shape({**config, "num_kv_shared_layers": 30})
    assert shared.kinds == {"full": 2, "none": 30}


@pytest.mark.parametrize("listed", ["full_attention", ["full_attention"], [1, 2], {"0": "full_attention"}])
def test_a_list_of_kinds_that_is_none_is_refused(listed: Any) -> None:
    with pytest.raises(InputError, match="layer_types of the config must name the kind of each of its 2 layers"):
        context_shape({"num_hidden_layers": 2, "hidden_size": 8, "num_experts": 4, "layer_types": listed})
