"""MoEGeometry: the shape of a model as far as scheduling is concerned. From a config.json, no weights needed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from .errors import InputError, known_as

# Bits that one weight takes in memory, scales of quantised blocks included (MXFP4: 4 + 8/32; int4: 4 + 16/32).
WEIGHT_BITS = {
    "fp32": 32.0,
    "bf16": 16.0,
    "fp16": 16.0,
    "fp8": 8.0,
    "int8": 8.0,
    "mxfp4": 4.25,
    "int4": 4.5,
    "fp8-block": 8.0 + 32 / 128**2,
    "q8_0": 8.5,
    "q6_k": 6.5625,
    "q4_k": 4.5,
    "q4_0": 4.5,
    "gguf-mxfp4": 4.25,
    "int4-group": 4.5,
    "gptq": 4.5,
    "awq": 4.5,
}

# What no model comes near, so that nothing asks for memory by a figure that is a slip or an attack.
MAX_LAYERS, MAX_EXPERTS, MAX_WIDTH, MAX_PARAMS = 10_000, 1 << 15, 1 << 24, 1 << 50
_MOST = {
    "num_layers": MAX_LAYERS,
    "num_experts": MAX_EXPERTS,
    "top_k": MAX_EXPERTS,
    "hidden": MAX_WIDTH,
    "ffn": MAX_WIDTH,
    "matrices": 8,
}
_MOST_OR_NONE = {"dense_params": MAX_PARAMS, "other_params": MAX_PARAMS}

_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CONFIG_MOST = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), MAX_LAYERS),
    **dict.fromkeys((*_EXPERT_COUNTS, "num_experts_per_tok"), MAX_EXPERTS),
    **dict.fromkeys(("hidden_size", "intermediate_size", "moe_intermediate_size", "vocab_size"), MAX_WIDTH),
}


@dataclass(frozen=True)
class MoEGeometry:
    """Shape of a Mixture-of-Experts model.

    `num_layers` counts MoE layers only. `matrices`: weight matrices per expert (3 gated, 2 ungated). `bias`: whether
    each has one. `dense_params`: weights of the rest of one MoE layer that every token uses (attention, norms, router,
    shared experts). `other_params`: weights outside the MoE layers (embeddings, head, layers without experts).
    `expert_bytes_override`: exact bytes, where the weights were seen; else from the shape and dtype. `experts_L`: how
    many experts each layer really has, where layers differ; num_experts is then the largest of these.
    """

    name: str
    num_layers: int
    num_experts: int
    top_k: int
    hidden: int
    ffn: int
    dtype: str = "bf16"
    matrices: int = 3
    bias: bool = False
    dense_params: int = 0
    other_params: int = 0
    expert_bytes_override: int | None = None
    experts_L: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for low, limits in ((1, _MOST), (0, _MOST_OR_NONE)):
            for field, most in limits.items():
                _require_whole(getattr(self, field), low, most, f"{field} of {self.name}")
        if self.top_k > self.num_experts:
            raise InputError(f"top_k {self.top_k} of {self.name} exceeds num_experts {self.num_experts}")
        if self.experts_L and (len(self.experts_L) != self.num_layers or max(self.experts_L) != self.num_experts):
            raise InputError(
                f"experts_L of {self.name} is {self.experts_L}; it needs {self.num_layers} counts, the largest "
                f"{self.num_experts}"
            )
        object.__setattr__(self, "dtype", known_as(self.dtype, WEIGHT_BITS))
        if self.dtype not in WEIGHT_BITS:
            raise InputError(f"dtype {self.dtype!r} is not one of {', '.join(WEIGHT_BITS)}")

    @property
    def bias_params(self) -> int:
        """Biases of one routed expert."""
        return (self.matrices - 1) * self.ffn + self.hidden if self.bias else 0

    @property
    def expert_params(self) -> int:
        """Weights of one routed expert, biases included."""
        return self.matrices * self.hidden * self.ffn + self.bias_params

    @property
    def expert_bytes(self) -> int:
        """Bytes of one routed expert's weights; biases are kept in 16 bits or more."""
        if self.expert_bytes_override is not None:
            return self.expert_bytes_override
        bits = WEIGHT_BITS[self.dtype]
        return math.ceil((self.matrices * self.hidden * self.ffn * bits + self.bias_params * max(bits, 16.0)) / 8)

    @property
    def total_experts(self) -> int:
        """Routed experts of all layers."""
        return sum(self.experts_L) if self.experts_L else self.num_experts * self.num_layers

    @property
    def total_expert_bytes(self) -> int:
        """Bytes of all routed experts of all layers, each as large as the largest."""
        return self.expert_bytes * self.total_experts

    def slots(self, capacity_bytes: int) -> int:
        """Experts that fit into `capacity_bytes`, at most all of them."""
        return min(int(capacity_bytes) // self.expert_bytes, self.total_experts)

    def with_dtype(self, dtype: str) -> MoEGeometry:
        """The same model with its experts stored as `dtype`."""
        return replace(self, dtype=dtype, expert_bytes_override=None)


def _require_whole(value: Any, low: int, most: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= most:
        raise InputError(f"{what} is {_brief(value)}; it must be a whole number from {low} to {most}")
    return value


def _brief(value: Any) -> str:
    """A wrong value, short enough for a message; str() of a whole number of thousands of digits would raise."""
    if isinstance(value, int) and value.bit_length() > 200:
        return "beyond all reason"
    return f"{value!r:.40}"


def from_config(config: Any, name: str = "", dtype: str | None = None) -> MoEGeometry:
    """Geometry of a transformers config (object or config.json dictionary).

    The many names of the same thing (`num_experts_per_tok`, `moe_top_k`, ...) are mapped here, once. `dtype` None: what
    the config says its weights are stored in, else bf16. Raises InputError for a model without experts, and for sizes
    that no model has, before anything is done by them.
    """
    text = text_section(config)
    num_experts = whole(text, MAX_EXPERTS, *_EXPERT_COUNTS)
    kind = str(_first(text, "model_type") or "this model")
    if not num_experts:
        raise InputError(f"{kind} has no routed experts; hetsched schedules Mixture-of-Experts models only")
    hidden = whole(text, MAX_WIDTH, "hidden_size")
    ffn = whole(text, MAX_WIDTH, "moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
    all_layers = whole(text, MAX_LAYERS, "num_hidden_layers")
    num_layers = _moe_layers(text, all_layers)
    attention = _attention_params(text, hidden) + 2 * hidden
    plain_layer = attention + 3 * hidden * (whole(text, MAX_WIDTH, "intermediate_size") or ffn)
    return MoEGeometry(
        name=name or kind,
        num_layers=num_layers,
        num_experts=num_experts,
        top_k=whole(text, MAX_EXPERTS, "num_experts_per_tok", "moe_top_k", "moe_k", "top_k_experts") or 1,
        hidden=hidden,
        ffn=ffn,
        dtype=dtype or _stored_dtype(text),
        bias=kind == "gpt_oss",
        dense_params=attention + _shared_params(text, hidden, ffn) + hidden * num_experts,
        other_params=_embedding_params(text, hidden) + max(all_layers - num_layers, 0) * plain_layer,
    )


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
                _require_whole(value, 0, _CONFIG_MOST[name], f"{name} of the config")


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
        if _first(section, *_EXPERT_COUNTS):
            return section
        waiting += inner
    return values


def _first(values: dict[str, Any], *names: str) -> Any:
    """The first of these names that is set; of one number a layer or a modality, the largest."""
    for name in names:
        value = values.get(name)
        if isinstance(value, (list, tuple)):
            try:
                value = max(value, default=None)
            except TypeError:
                raise InputError(f"{name} of the config is {_brief(value)}; it must hold numbers") from None
        if value is not None:
            return value
    return None


def whole(values: dict[str, Any], most: int, *names: str) -> int:
    """The first of these names that is set, as a whole number from 0 to `most`; 0 where none is.

    Raises InputError naming the one that is something else.
    """
    value = _first(values, *names)
    if value is None:
        return 0
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _require_whole(
        value, 0, most, f"{next(name for name in names if values.get(name) is not None)} of the config"
    )


def _stored_dtype(text: dict[str, Any]) -> str:
    quantised = text.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, dict) else None
    if isinstance(method, str) and method in WEIGHT_BITS:
        return method
    stored = str(_first(text, "dtype", "torch_dtype") or "bfloat16").removeprefix("torch.")
    return {"float32": "fp32", "float16": "fp16"}.get(stored, "bf16")


def _moe_layers(text: dict[str, Any], all_layers: int) -> int:
    kinds = text.get("mlp_layer_types")
    if isinstance(kinds, list):
        return sum(kind == "sparse" for kind in kinds)
    step = whole(text, MAX_LAYERS, "decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step") or 1
    listed = text.get("mlp_only_layers") or ()
    if not isinstance(listed, list | tuple):
        raise InputError(f"mlp_only_layers of the config is {_brief(listed)}; it must be a list of layer numbers")
    first_sparse = whole(text, MAX_LAYERS, "first_k_dense_replace")
    return sum((layer + 1) % step == 0 and layer not in listed for layer in range(first_sparse, all_layers))


def _heads(text: dict[str, Any], hidden: int) -> tuple[int, int, int]:
    """Query heads, key-value heads, dimension of each."""
    heads = whole(text, MAX_WIDTH, "num_attention_heads") or 1
    kv_heads = whole(text, MAX_WIDTH, "num_key_value_heads") or heads
    return heads, kv_heads, whole(text, MAX_WIDTH, "head_dim") or hidden // heads


def _attention_params(text: dict[str, Any], hidden: int) -> int:
    heads, kv_heads, head_dim = _heads(text, hidden)
    if not text.get("kv_lora_rank"):
        return 2 * hidden * head_dim * (heads + kv_heads)
    # Multi-head latent attention (DeepSeek-V2, section 2.1): low-rank queries (optional), keys and values.
    names = ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "q_lora_rank")
    rank, rope, nope, value, query_rank = (whole(text, MAX_WIDTH, name) for name in names)
    query = heads * (nope + rope)
    queries = query_rank * (hidden + query) if query_rank else hidden * query
    return queries + hidden * (rank + rope) + rank * heads * (nope + value) + heads * value * hidden


def _shared_params(text: dict[str, Any], hidden: int, ffn: int) -> int:
    if _first(text, "shared_expert_intermediate_size") is not None:
        return 3 * hidden * whole(text, MAX_WIDTH, "shared_expert_intermediate_size")
    return 3 * hidden * whole(text, MAX_EXPERTS, "n_shared_experts") * ffn


def _embedding_params(text: dict[str, Any], hidden: int) -> int:
    copies = 1 if text.get("tie_word_embeddings") else 2
    return copies * hidden * whole(text, MAX_WIDTH, "vocab_size")
