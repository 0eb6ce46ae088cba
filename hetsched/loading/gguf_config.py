"""The config of a GGUF file's model, which comes without a config.json: llama.cpp's keys as transformers' attributes.

transformers reads some of these itself, but leaves the widths of experts and the scaling of rotary embeddings at its
defaults, and knows only four architectures with experts. Which of llama.cpp's models has which arithmetic is said in
ARCHITECTURES; where its graph has something fixed that a config could choose, that is among `fixed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers

from ..errors import InputError
from .gguf_file import Gguf

COMMON = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "expert_used_count": "num_experts_per_tok",
}
DEEPSEEK = {
    "expert_count": "n_routed_experts",
    "expert_shared_count": "n_shared_experts",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": "norm_topk_prob",
    "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group",
    "leading_dense_block_count": "first_k_dense_replace",
}
TOKENS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
ENDS = ("eos", "eot", "eom")  # tokens that end an answer
SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "penalty_repeat": "repetition_penalty"}


@dataclass(frozen=True)
class Architecture:
    """An architecture of llama.cpp in transformers: its model type, and what has other names than in COMMON.

    `keys`: attributes by llama.cpp's keys. `fixed`: attributes that its graph leaves no choice in. `biased`, `width`
    and `shared_width`: the attributes that say whether attention has biases and how wide experts are, which the tensors
    tell; "" where there is none.
    """

    model_type: str
    keys: Mapping[str, str]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    biased: str = "attention_bias"
    width: str = "moe_intermediate_size"
    shared_width: str = ""


ARCHITECTURES = {
    "qwen2moe": Architecture(
        "qwen2_moe",
        {"expert_count": "num_experts"},
        {"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
        biased="qkv_bias",
        shared_width="shared_expert_intermediate_size",
    ),
    "qwen3moe": Architecture(
        "qwen3_moe",
        {"expert_count": "num_experts"},
        {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
    "gpt-oss": Architecture(
        "gpt_oss",
        {"expert_count": "num_local_experts", "attention.sliding_window": "sliding_window"},
        width="intermediate_size",
    ),
    "llama": Architecture("mixtral", {"expert_count": "num_local_experts"}, biased="", width="intermediate_size"),
    "olmoe": Architecture(
        "olmoe", {"expert_count": "num_experts"}, {"norm_topk_prob": False}, width="intermediate_size"
    ),
    "glm4moe": Architecture("glm4_moe", DEEPSEEK),
    "dots1": Architecture("dots1", DEEPSEEK),
    "minimax-m2": Architecture(
        "minimax_m2", {"expert_count": "num_local_experts"}, biased="", width="intermediate_size"
    ),
}


def config_of(gguf: Gguf) -> Any:
    """transformers' config of the model in a file.

    Raises InputError for an architecture that is not known here, or one without routed experts.
    """
    known = ARCHITECTURES.get(gguf.architecture)
    if known is None:
        raise InputError(
            f"{gguf.files[0]} is of architecture {gguf.architecture!r}; GGUF files can be loaded of "
            f"{', '.join(sorted(ARCHITECTURES))}, others as safetensors"
        )
    if not gguf.value("expert_count"):
        raise InputError(f"{gguf.files[0]} has no routed experts; hetsched needs a Mixture-of-Experts model")
    found = {name: _one(gguf, key) for key, name in {**COMMON, **known.keys}.items()}
    found |= {name: gguf.metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in TOKENS.items()}
    found = {name: value for name, value in found.items() if value is not None}
    found |= {**known.fixed, **_of_tensors(gguf, known), "rope_parameters": _rope(gguf, found)}
    found["num_hidden_layers"] = _one(gguf, "block_count") - (_one(gguf, "nextn_predict_layers") or 0)
    config = transformers.AutoConfig.for_model(known.model_type, **found)
    config.architectures = [transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[known.model_type]]
    config._name_or_path = str(gguf.files[0])
    return config


def generation_config_of(gguf: Gguf, config: Any) -> Any:
    """How its authors would have it generate, as far as the file says so."""
    ends = [gguf.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ENDS]
    ends = list(dict.fromkeys(end for end in ends if end is not None))
    said = {name: gguf.metadata.get(f"general.sampling.{key}") for key, name in SAMPLING.items()}
    said = {name: value for name, value in said.items() if value is not None}
    made = transformers.GenerationConfig(bos_token_id=config.bos_token_id, pad_token_id=config.pad_token_id, **said)
    made.eos_token_id = ends if len(ends) > 1 else next(iter(ends), None)
    made.do_sample = bool(said.get("temperature"))
    return made


def _one(gguf: Gguf, key: str) -> Any:
    """A number, also where it is given for each layer. Raises InputError where layers differ."""
    value = gguf.value(key)
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        raise InputError(f"{gguf.files[0]} has layers that differ in {key}, which transformers' model has not")
    return value[0]


def _of_tensors(gguf: Gguf, known: Architecture) -> dict[str, Any]:
    """What only the tensors say."""
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None:
        raise InputError(f"{gguf.files[0]} has no token_embd.weight; it is no language model, or lacks shards")
    found: dict[str, Any] = {
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
    }
    for attribute, ending in ((known.width, ".ffn_down_exps.weight"), (known.shared_width, ".ffn_down_shexp.weight")):
        widths = {tensor.shape[-1] for name, tensor in gguf.tensors.items() if name.endswith(ending)}
        if attribute and len(widths) != 1:
            raise InputError(f"{gguf.files[0]} has no single width of experts (blk.N{ending}): {sorted(widths)}")
        found |= {attribute: widths.pop()} if attribute else {}
    if known.biased:
        found[known.biased] = any(name.endswith(".attn_q.bias") for name in gguf.tensors)
    if known.model_type == "glm4_moe":
        found["use_qk_norm"] = any(name.endswith(".attn_q_norm.weight") for name in gguf.tensors)
    return found


def _rope(gguf: Gguf, found: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the rotary embedding. Raises InputError for a scaling that is not carried over."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": gguf.value("rope.freq_base", 10000.0)}
    head_dim = found.get("head_dim") or found["hidden_size"] // found["num_attention_heads"]
    turned = gguf.value("rope.dimension_count", head_dim)
    if turned != head_dim:
        rope["partial_rotary_factor"] = turned / head_dim
    kind = gguf.value("rope.scaling.type", "none")
    if kind == "none":
        return rope
    if kind not in ("linear", "yarn"):
        raise InputError(f"{gguf.files[0]} scales its rotary embedding by {kind!r}, which is not carried over")
    rope |= {"rope_type": kind, "factor": gguf.value("rope.scaling.factor", 1.0)}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = gguf.value(
            "rope.scaling.original_context_length", found["max_position_embeddings"]
        )
        rope |= {
            "beta_fast": gguf.value("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": gguf.value("rope.scaling.yarn_beta_slow", 1.0),
            "truncate": gguf.architecture != "gpt-oss",
        }
    return rope
