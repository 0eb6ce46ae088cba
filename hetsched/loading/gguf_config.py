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
from ..geometry import MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH
from .generation_file import check_generation
from .gguf_file import Gguf
from .gguf_theirs import is_theirs, their_config
from .remote_code import at_work

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
MOST = {
    "block_count": MAX_LAYERS,
    "expert_count": MAX_EXPERTS,
    "expert_used_count": MAX_EXPERTS,
    "embedding_length": MAX_WIDTH,
    "attention.head_count": MAX_WIDTH,
    "context_length": 1 << 40,
}
AGAIN = "download it again"
ENDS = ("eos", "eot", "eom")  # tokens that end an answer
SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "penalty_repeat": "repetition_penalty"}


@dataclass(frozen=True)
class Architecture:
    """An architecture of llama.cpp in transformers: its model type, and what has other names than in COMMON.

    `keys`: attributes by llama.cpp's keys. `fixed`: attributes that its graph leaves no choice in. `biased`, `width`
    and `shared_width`: the attributes that say whether attention has biases and how wide experts are, which the tensors
    tell; "" where there is none. `latent`: attention has the widths of DeepSeek's.
    """

    model_type: str
    keys: Mapping[str, str]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    biased: str = "attention_bias"
    width: str = "moe_intermediate_size"
    shared_width: str = ""
    latent: bool = False


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
    "ernie4_5-moe": Architecture(
        "ernie4_5_moe",
        {
            "expert_count": "moe_num_experts",
            "expert_used_count": "moe_k",
            "expert_shared_count": "moe_num_shared_experts",
            "interleave_moe_layer_step": "moe_layer_interval",
            "leading_dense_block_count": "moe_layer_start_index",
        },
        {"moe_layer_end_index": -1},
        biased="use_bias",
    ),
    "deepseek2": Architecture("deepseek_v3", DEEPSEEK, latent=True),
    "minimax-m2": Architecture(
        "minimax_m2", {"expert_count": "num_local_experts"}, biased="", width="intermediate_size"
    ),
}


def config_of(gguf: Gguf) -> Any:
    """transformers' config of the model in a file.

    Raises InputError for an architecture that is not known here, or one without routed experts.
    """
    known = ARCHITECTURES.get(gguf.architecture)
    if known is None and not is_theirs(gguf.architecture):
        raise InputError(
            f"{gguf.files[0]} is of architecture {gguf.architecture!r}; GGUF files can be loaded of "
            f"{', '.join(sorted(ARCHITECTURES))}, others as safetensors"
        )
    if not gguf.value("expert_count"):
        raise InputError(f"{gguf.files[0]} has no routed experts; hetsched needs a Mixture-of-Experts model")
    _refuse_odd_numbers(gguf)
    with at_work(gguf.files[0], f"{gguf.files[0]}'s metadata are no model's that transformers knows", AGAIN):
        config = their_config(gguf) if known is None else _ours(gguf, known)
    config._name_or_path = str(gguf.files[0])
    return config


def _ours(gguf: Gguf, known: Architecture) -> Any:
    found = {name: _one(gguf, key) for key, name in {**COMMON, **known.keys}.items()}
    found |= {name: gguf.metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in TOKENS.items()}
    found = {name: value for name, value in found.items() if value is not None}
    if known.latent:
        found |= _latent(gguf, found)
    found |= {**known.fixed, **_of_tensors(gguf, known), "rope_parameters": _rope(gguf, found)}
    found["num_hidden_layers"] = _one(gguf, "block_count") - (_one(gguf, "nextn_predict_layers") or 0)
    config = transformers.AutoConfig.for_model(known.model_type, **found)
    config.architectures = [transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[known.model_type]]
    return config


def _refuse_odd_numbers(gguf: Gguf) -> None:
    """Raise InputError for numbers that no model has, which would be believed otherwise."""
    for key, most in MOST.items():
        value = gguf.value(key)
        numbers = value if isinstance(value, list) else [value]
        if not all(isinstance(each, int) and 0 < each <= most for each in numbers):
            raise InputError(f"{gguf.files[0]} says {gguf.architecture}.{key} is {str(value)[:40]}; it is damaged")
    last = f"blk.{_one(gguf, 'block_count') - 1}."
    if not any(name.startswith(last) for name in gguf.tensors):
        raise InputError(f"{gguf.files[0]} lacks {last[:-1]}, the last of its layers; it is incomplete, or damaged")
    if not isinstance(gguf.value("attention.layer_norm_rms_epsilon"), float):
        raise InputError(f"{gguf.files[0]} lacks attention.layer_norm_rms_epsilon; it is damaged, or of another kind")


def generation_config_of(gguf: Gguf, config: Any) -> Any:
    """How its authors would have it generate, as far as the file says so."""
    ends = [gguf.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ENDS]
    ends = list(dict.fromkeys(end for end in ends if end is not None))
    said = {name: gguf.metadata.get(f"general.sampling.{key}") for key, name in SAMPLING.items()}
    said = {name: value for name, value in said.items() if value is not None}
    said |= {
        "do_sample": bool(said.get("temperature")),
        "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None),
    }
    said |= {"bos_token_id": config.bos_token_id, "pad_token_id": config.pad_token_id}
    check_generation(said, str(gguf.files[0]))
    return transformers.GenerationConfig(**said)


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


def _latent(gguf: Gguf, found: Mapping[str, Any]) -> dict[str, Any]:
    """Widths of latent attention, and groups of experts. Raises InputError for DeepSeek-V2's router."""
    if not any(".exp_probs_b" in name for name in gguf.tensors):
        raise InputError(f"{gguf.files[0]} has DeepSeek-V2's router, which GGUF does not describe; take safetensors")
    turned, heads = gguf.value("rope.dimension_count"), found["num_attention_heads"]
    whole = gguf.value("attention.key_length_mla") or gguf.value("attention.key_length")
    return {
        "num_key_value_heads": heads,
        "head_dim": turned,
        "qk_rope_head_dim": turned,
        "qk_nope_head_dim": whole - turned,
        "v_head_dim": gguf.value("attention.value_length_mla") or gguf.value("attention.value_length"),
        "kv_lora_rank": gguf.value("attention.kv_lora_rank"),
        "q_lora_rank": gguf.value("attention.q_lora_rank"),
        "n_group": found.get("n_group", 1),
        "topk_group": found.get("topk_group", 1),
        "norm_topk_prob": found.get("norm_topk_prob", False),
    }


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
        if log_factor := gguf.value("rope.scaling.yarn_log_multiplier"):
            rope |= dict.fromkeys(("mscale", "mscale_all_dim"), 10 * log_factor)  # of which it is a tenth
    return rope
