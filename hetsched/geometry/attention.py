"""Weights of a layer's attention, the average of all layers where they differ."""

from __future__ import annotations

from typing import Any

from .checks import MAX_LAYERS, MAX_WIDTH
from .fields import whole


def attention_params(text: dict[str, Any], hidden: int, layers: int) -> int:
    """Weights of the attention of one layer of `layers`; of models with both kinds, the average of full and linear."""
    full = _full(text, hidden)
    if not whole(text, MAX_WIDTH, "linear_num_value_heads") or not layers:
        return full
    linear_layers = _linear_layers(text, layers)
    return round((linear_layers * _linear(text, hidden) + (layers - linear_layers) * full) / layers)


def _full(text: dict[str, Any], hidden: int) -> int:
    heads, kv_heads, head_dim = _heads(text, hidden)
    if not text.get("kv_lora_rank"):
        gates = heads if whole(text, MAX_WIDTH, "linear_num_value_heads") else 0  # Qwen3-Next gates attention's output
        return hidden * head_dim * (2 * heads + gates + 2 * kv_heads)
    # Multi-head latent attention (DeepSeek-V2, section 2.1): low-rank queries (optional), keys and values.
    names = ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "q_lora_rank")
    rank, rope, nope, value, query_rank = (whole(text, MAX_WIDTH, name) for name in names)
    query = heads * (nope + rope)
    queries = query_rank * (hidden + query) if query_rank else hidden * query
    return queries + hidden * (rank + rope) + rank * heads * (nope + value) + heads * value * hidden


def _linear(text: dict[str, Any], hidden: int) -> int:
    """Gated DeltaNet as in Qwen3-Next: queries, keys, values and gate, two numbers a head, convolution, output."""
    keys, values = (_width(text, part) for part in ("key", "value"))
    heads = whole(text, MAX_WIDTH, "linear_num_value_heads")
    convolution = whole(text, MAX_WIDTH, "linear_conv_kernel_dim") * (2 * keys + values)
    return hidden * (2 * keys + 3 * values + 2 * heads) + convolution


def _width(text: dict[str, Any], part: str) -> int:
    return whole(text, MAX_WIDTH, f"linear_num_{part}_heads") * whole(text, MAX_WIDTH, f"linear_{part}_head_dim")


def _linear_layers(text: dict[str, Any], layers: int) -> int:
    listed = text.get("layer_types")
    if isinstance(listed, list | tuple):
        return min(list(listed).count("linear_attention"), layers)
    step = whole(text, MAX_LAYERS, "full_attention_interval")
    return layers - layers // step if step else 0


def _heads(text: dict[str, Any], hidden: int) -> tuple[int, int, int]:
    """Query heads, key-value heads, dimension of each."""
    heads = whole(text, MAX_WIDTH, "num_attention_heads") or 1
    kv_heads = whole(text, MAX_WIDTH, "num_key_value_heads") or heads
    return heads, kv_heads, whole(text, MAX_WIDTH, "head_dim") or hidden // heads
