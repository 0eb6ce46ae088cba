"""Tiny random models of any architecture: the config's defaults with every size made small."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "out_hidden_size", "text_hidden_size", "thinker_hidden_size", "d_model"), 32),
    **dict.fromkeys(("projector_hidden_size", "merged_hidden_size", "adapter_out_dim", "output_dim"), 32),
    **dict.fromkeys(("adapter_in_dim", "moe_hidden_size", "adapter_input_size", "decoder_dim"), 32),
    **dict.fromkeys(("intermediate_size", "dense_intermediate_size", "mlp_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 24),
    **dict.fromkeys(("shared_experts_intermediate_size", "moe_shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("projection_intermediate_size", "projection_hidden_dim", "moe_latent_size"), 24),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 8),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts", "num_experts_per_token"), 4),
    "num_hidden_layers": 3,
    **dict.fromkeys(("depth", "n_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "encoder_attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads", "num_global_key_value_heads"), 4),
    **dict.fromkeys(("head_dim", "swa_head_dim", "global_head_dim", "v_head_dim", "linear_head_dim"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "index_head_dim", "attention_head_dim"), 16),
    **dict.fromkeys(("linear_num_heads", "linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim"), 8),
    "qk_head_dim": 16,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "o_lora_rank": 16,
    "vocab_size": 96,
    "unpadded_vocab_size": 96,
    "vocab_size_per_layer_input": 96,
    "hidden_size_per_layer_input": 8,
    "max_position_embeddings": 128,
    "n_group": 2,
    "topk_group": 1,
    "num_expert_group": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "sliding_window": 8,
    "sliding_window_size": 8,
    "router_hidden_size": 16,
    "index_n_heads": 2,
    "index_topk": 4,
    "num_mtp_layers": 1,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


UNSET_TOO = (
    "num_experts",
    "n_routed_experts",
    "num_experts_per_tok",
    "top_k_experts",
    "moe_intermediate_size",
    "head_dim",
)


def tiny_config(kind: type[PreTrainedConfig], changes: dict[str, Any]) -> PreTrainedConfig:
    """A config of this kind with small sizes; `changes` are of its text part, or of the part named before a dot."""
    return kind(**_shrunk(kind(), changes), experts_implementation="eager")


def _shrunk(config: PreTrainedConfig, changes: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, plain in config.to_dict().items():
        value = getattr(config, name, None) if isinstance(plain, dict) else plain
        if isinstance(value, PreTrainedConfig):
            own = {key.partition(".")[2]: change for key, change in changes.items() if key.startswith(f"{name}.")}
            text = {key: change for key, change in changes.items() if "." not in key and name == "text_config"}
            values[name] = type(value)(**_shrunk(value, text | own))
        elif name in SIZES and (type(value) in (int, float) or (value is None and name in UNSET_TOO)):
            values[name] = SIZES[name]
        elif name in TOKENS:
            values[name] = TOKENS[name]
    if "text_config" not in values:
        values |= {name: change for name, change in changes.items() if "." not in name}
    return values


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """The model in evaluation mode with random weights of a size that makes routing and experts matter."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.2)
    return model.eval()
