"""ContextShape: what a model keeps of its context, layer by layer, and how wide its dense part is. From a config.

Each layer's own kind of attention counts. Elements of a sequence of n tokens, by the fields of transformers' configs:

    full             n * 2 * key-value heads * head_dim
    sliding window   min(n, window) * 2 * key-value heads * head_dim
    latent (MLA)     n * (kv_lora_rank + qk_rope_head_dim)            DeepSeek-V2, arXiv 2405.04434, section 2.1.2
    linear           key heads * key dim * values a key head, and the short convolution's last inputs; whatever n
    none             0: layers without attention, or that read another layer's

Shapes: L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..geometry import MAX_LAYERS, MAX_WIDTH, text_section, whole

MAX_TOKENS = 1 << 40
_WINDOWED = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
_FIXED = ("linear_attention", "conv", "mamba", "mamba2", "linear", "recurrent")
_NOTHING = ("moe", "mlp", "dummy", "none")
_BOTH = ("hybrid", "hybrid_sliding")  # attention and a state beside it


@dataclass(frozen=True)
class LayerCache:
    """What one layer keeps of a sequence, in elements: `per_token` of the last `window` tokens (None: of all).

    `fixed`: besides, whatever the length. `name`: full, sliding, latent, linear or none.
    """

    name: str
    per_token: int = 0
    window: int | None = None
    fixed: int = 0

    def elements(self, tokens: int) -> int:
        """Elements after so many tokens."""
        kept = tokens if self.window is None else min(tokens, self.window)
        return self.per_token * kept + (self.fixed if tokens else 0)


@dataclass(frozen=True)
class ContextShape:
    """`layers`: what each keeps. `query`: width of all query heads; `vocab`: logits of a token; `longest`: tokens that
    the model was made for. 0 where a config does not say; nothing at all is a model whose context takes no memory.
    """

    layers: tuple[LayerCache, ...] = ()
    query: int = 0
    vocab: int = 0
    longest: int = 0

    def cache_bytes(self, tokens: int, batch: int = 1, element_bytes: int = 2) -> int:
        """Bytes that the cache of `batch` sequences of so many tokens takes."""
        return batch * element_bytes * sum(layer.elements(tokens) for layer in self.layers)

    @property
    def kinds(self) -> dict[str, int]:
        """How many layers there are of each kind, in the order in which they come."""
        names = [layer.name for layer in self.layers]
        return {name: names.count(name) for name in dict.fromkeys(names)}


def context_shape(config: Any) -> ContextShape:
    """What a transformers config (object or config.json dictionary) says. Raises InputError for sizes no model has."""
    text = text_section(config)
    layers = whole(text, MAX_LAYERS, "num_hidden_layers", "n_layer", "n_layers")
    caches = [_cache(kind, _of_layer(text, layer)) for layer, kind in enumerate(_kinds(text, layers))]
    shared = min(whole(text, MAX_LAYERS, "num_kv_shared_layers"), layers)
    if shared:  # the last ones read what those before keep
        caches[layers - shared :] = [LayerCache("none")] * shared
    heads, head_dim = _heads(text)
    if text.get("kv_lora_rank"):
        head_dim = whole(text, MAX_WIDTH, "qk_nope_head_dim") + whole(text, MAX_WIDTH, "qk_rope_head_dim")
    longest = whole(text, MAX_TOKENS, "max_position_embeddings", "max_sequence_length")
    return ContextShape(tuple(caches), heads * head_dim, whole(text, MAX_WIDTH, "vocab_size"), longest)


def _kinds(text: dict[str, Any], layers: int) -> Sequence[str]:
    """The kind of each layer as a config lists them; without a list, by its window and who has one."""
    for name in ("layer_types", "layers_block_type"):
        listed = text.get(name)
        if listed is None:
            continue
        strings = isinstance(listed, list | tuple) and all(type(kind) is str for kind in listed)
        if not strings or layers not in (0, len(listed)):
            raise InputError(f"{name} of the config must name the kind of each of its {layers} layers")
        return ["full_attention" if kind == "attention" else kind for kind in listed]
    step = whole(text, MAX_LAYERS, "attn_layer_period")
    if step:  # Jamba
        offset = whole(text, MAX_LAYERS, "attn_layer_offset")
        return ["full_attention" if layer % step == offset else "mamba" for layer in range(layers)]
    step = whole(text, MAX_LAYERS, "full_attention_interval")
    if step:  # Qwen3-Next
        return ["linear_attention" if (layer + 1) % step else "full_attention" for layer in range(layers)]
    if text.get("model_type") == "gpt_oss":  # every other layer has a window, from the first on
        return ["full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)]
    if not text.get("sliding_window") or text.get("use_sliding_window") is False:
        return ["full_attention"] * layers
    if text.get("use_sliding_window"):  # Qwen: the first layers attend to everything
        whole_layers = min(whole(text, MAX_LAYERS, "max_window_layers"), layers)
        return ["full_attention"] * whole_layers + ["sliding_attention"] * (layers - whole_layers)
    return ["sliding_attention"] * layers


def _of_layer(text: dict[str, Any], layer: int) -> dict[str, Any]:
    """The config as one layer has it."""
    listed = text.get("per_layer_config")
    own = listed.get(str(layer), listed.get(layer)) if isinstance(listed, dict) else None
    return {**text, **own} if isinstance(own, dict) else text


def _heads(text: dict[str, Any]) -> tuple[int, int]:
    """Query heads, and the width of one."""
    heads = whole(text, MAX_WIDTH, "num_attention_heads") or 1
    return heads, whole(text, MAX_WIDTH, "head_dim") or whole(text, MAX_WIDTH, "hidden_size") // heads


def _cache(kind: str, text: dict[str, Any]) -> LayerCache:
    if kind in _NOTHING:
        return LayerCache("none")
    if kind in _FIXED:
        return LayerCache("linear", fixed=_state(text))
    rank = whole(text, MAX_WIDTH, "kv_lora_rank")
    if rank:
        return LayerCache("latent", rank + whole(text, MAX_WIDTH, "qk_rope_head_dim"))
    heads, head_dim = _heads(text)
    windowed = "sliding" in kind or kind in _WINDOWED
    window = whole(text, MAX_TOKENS, _WINDOWED.get(kind, "sliding_window")) if windowed else 0
    # Some have heads of their own in layers that see everything (Gemma 4), or in those with a window (MiMo).
    own = ("swa_num_key_value_heads", "swa_head_dim") if window else ("num_global_key_value_heads", "global_head_dim")
    kv_heads = whole(text, MAX_WIDTH, own[0], "num_key_value_heads") or heads
    per_token = 2 * kv_heads * (whole(text, MAX_WIDTH, own[1]) or head_dim)
    return LayerCache("sliding" if window else "full", per_token, window or None, _state(text) if kind in _BOTH else 0)


def _state(text: dict[str, Any]) -> int:
    """Elements of a layer's state that do not grow with the context, and of its convolution's last inputs.

    Gated delta rule (Qwen3-Next) by its `linear_` fields, Mamba-2 by heads, Mamba by its expansion, a short convolution
    alone (LFM2); else a square for each head (lightning attention, MiniMax).
    """
    hidden = whole(text, MAX_WIDTH, "hidden_size")
    values = whole(text, MAX_WIDTH, "linear_num_value_heads")
    if values:
        key_dim, value_dim = (whole(text, MAX_WIDTH, f"linear_{part}_head_dim") for part in ("key", "value"))
        wide = 2 * whole(text, MAX_WIDTH, "linear_num_key_heads") * key_dim + values * value_dim
        return values * key_dim * value_dim + wide * whole(text, MAX_WIDTH, "linear_conv_kernel_dim")
    state = whole(text, MAX_WIDTH, "mamba_d_state", "ssm_state_size")
    if not state and (kernel := whole(text, MAX_WIDTH, "conv_L_cache", "conv_kernel")):
        return hidden * kernel
    if not state:
        heads, head_dim = _heads(text)
        return heads * head_dim**2
    inner = whole(text, MAX_WIDTH, "mamba_n_heads", "mamba_num_heads")
    inner *= whole(text, MAX_WIDTH, "mamba_d_head", "mamba_head_dim")
    groups = whole(text, MAX_WIDTH, "mamba_n_groups", "n_groups") if inner else 0
    inner = inner or hidden * (whole(text, MAX_WIDTH, "mamba_expand", "expand") or 2)
    return inner * state + (inner + 2 * groups * state) * whole(text, MAX_WIDTH, "mamba_d_conv", "conv_kernel")
