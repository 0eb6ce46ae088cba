"""The geometry that a config.json tells; no weights needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import InputError
from .attention import attention_params
from .checks import MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH, brief, require_whole
from .fields import first, whole
from .quantised import format_in, layers_left_out
from .shape import MoEGeometry

_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CONFIG_MOST = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), MAX_LAYERS),
    **dict.fromkeys((*_EXPERT_COUNTS, "num_experts_per_tok"), MAX_EXPERTS),
    **dict.fromkeys(("hidden_size", "intermediate_size", "moe_intermediate_size", "vocab_size"), MAX_WIDTH),
}


def from_config(config: Any, name: str = "", dtype: str | None = None) -> MoEGeometry:
    """Geometry of a transformers config (object or config.json dictionary).

    The many names of the same thing (`num_experts_per_tok`, `moe_top_k`, ...) are mapped here, once. `dtype` None: what
    the config says its weights are stored in, quantised ones too, else bf16. Raises InputError for a model without
    experts, for sizes that no model has, before anything is done by them, and for what no format stores.
    """
    values: dict[str, Any] = config if isinstance(config, dict) else config.to_dict()
    text = text_section(values)
    num_experts = whole(text, MAX_EXPERTS, *_EXPERT_COUNTS)
    kind = str(first(text, "model_type") or "this model")
    if not num_experts:
        raise InputError(f"{kind} has no routed experts; hetsched schedules Mixture-of-Experts models only")
    hidden = whole(text, MAX_WIDTH, "hidden_size")
    ffn = whole(text, MAX_WIDTH, "moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
    all_layers = whole(text, MAX_LAYERS, "num_hidden_layers")
    layers = _moe_layers(text, all_layers)
    stored, plain = (dtype, []) if dtype else _stored(values, text, layers)
    attention = attention_params(text, hidden, all_layers) + 2 * hidden
    plain_layer = attention + 3 * hidden * (whole(text, MAX_WIDTH, "intermediate_size") or ffn)
    geometry = MoEGeometry(
        name=name or kind,
        num_layers=len(layers),
        num_experts=num_experts,
        top_k=whole(text, MAX_EXPERTS, "num_experts_per_tok", "moe_top_k", "moe_k", "top_k_experts") or 1,
        hidden=hidden,
        ffn=ffn,
        dtype=stored,
        bias=kind == "gpt_oss",
        dense_params=attention + _shared_params(text, hidden, ffn) + hidden * num_experts,
        other_params=_embedding_params(text, hidden) + max(all_layers - len(layers), 0) * plain_layer,
    )
    if not plain:
        return geometry
    plain_bytes = geometry.with_dtype(_plain_dtype(text)).expert_bytes
    sizes_L = tuple(plain_bytes if layer in plain else geometry.expert_bytes for layer in layers)
    return replace(geometry, expert_bytes_L=sizes_L)


def require_sane_sizes(config: dict[str, Any]) -> None:
    """Raise InputError for a size in a config, or in a section of it, that no model has.

    To be asked before a library makes a list of so many layers; what is missing or of another type is not judged here.
    """
    waiting = [config]
    while waiting:
        section = waiting.pop()
        for name, value in section.items():
            if isinstance(value, dict):
                waiting.append(value)
            elif type(value) is int and str(name) in _CONFIG_MOST:
                require_whole(value, 0, _CONFIG_MOST[name], f"{name} of the config")


def text_section(config: Any) -> dict[str, Any]:
    """The part of a config that describes the experts, as a dictionary: its text part, else the first that has any."""
    values: dict[str, Any] = config if isinstance(config, dict) else config.to_dict()
    waiting = [values]
    while waiting:
        section = waiting.pop(0)
        inner = [part for name, part in section.items() if str(name).endswith("config") and isinstance(part, dict)]
        inner.sort(key=lambda part: part is not section.get("text_config"))
        if isinstance(section.get("text_config"), dict):
            section = section["text_config"]
        if first(section, *_EXPERT_COUNTS):
            return section
        waiting += inner
    return values


def layers_with_experts(config: Any) -> tuple[int, ...]:
    """Numbers of the layers with experts among all layers, from 0."""
    text = text_section(config)
    return tuple(_moe_layers(text, whole(text, MAX_LAYERS, "num_hidden_layers")))


def _plain_dtype(text: dict[str, Any]) -> str:
    stored = str(first(text, "dtype", "torch_dtype") or "bfloat16").removeprefix("torch.")
    return {"float32": "fp32", "float16": "fp16"}.get(stored, "bf16")


def _stored(values: dict[str, Any], text: dict[str, Any], layers: list[int]) -> tuple[str, list[int]]:
    """What experts are stored as, and the layers where they are not but plain."""
    found = (part.get(name) for part in (text, values) for name in ("quantization_config", "compression_config"))
    settings = next((each for each in found if isinstance(each, dict)), None)
    if settings is None:
        return _plain_dtype(text), []
    plain = layers_left_out(settings, layers)
    return (_plain_dtype(text), []) if layers == plain else (format_in(settings), plain)


def _moe_layers(text: dict[str, Any], all_layers: int) -> list[int]:
    """Numbers of the layers with experts."""
    kinds = text.get("mlp_layer_types")
    if isinstance(kinds, list):
        return [layer for layer, kind in enumerate(kinds) if kind == "sparse"]
    step = whole(text, MAX_LAYERS, "decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step") or 1
    listed = text.get("mlp_only_layers") or ()
    if not isinstance(listed, list | tuple):
        raise InputError(f"mlp_only_layers of the config is {brief(listed)}; it must be a list of layer numbers")
    dense = {each for each in listed if isinstance(each, int)}
    first_sparse = whole(text, MAX_LAYERS, "first_k_dense_replace")
    return [layer for layer in range(first_sparse, all_layers) if (layer + 1) % step == 0 and layer not in dense]


def _shared_params(text: dict[str, Any], hidden: int, ffn: int) -> int:
    if first(text, "shared_expert_intermediate_size") is not None:
        return 3 * hidden * whole(text, MAX_WIDTH, "shared_expert_intermediate_size")
    return 3 * hidden * whole(text, MAX_EXPERTS, "n_shared_experts") * ffn


def _embedding_params(text: dict[str, Any], hidden: int) -> int:
    copies = 1 if text.get("tie_word_embeddings") else 2
    return copies * hidden * whole(text, MAX_WIDTH, "vocab_size")
