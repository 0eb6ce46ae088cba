"""The fitted model as a stock transformers one: `Qwen2MoeForCausalLM`.

Shapes: F ffn neurons, H hidden, E experts, W neurons of an expert.
"""

from __future__ import annotations

from typing import Any

import torch

from hetsched.demo_model.generation import SETTINGS
from hetsched.demo_model.split_ffn import SplitFfn, SplitShape

# Logits this small make every routing weight 1/E to within a fraction of a percent, whatever the top-k; the routed
# down-projections are multiplied by E instead. (float16 would flush part of the router weights; bfloat16 does not.)
ROUTER_SCALE = 2e-3


def to_qwen2_moe(sparse: Any, shape: SplitShape) -> Any:
    """`Qwen2MoeForCausalLM` in float32 that computes what `sparse`, a Llama with `SplitFfn` blocks, computes."""
    from transformers import GenerationConfig, Qwen2MoeForCausalLM

    target = Qwen2MoeForCausalLM(moe_config(sparse.config, shape))
    weights = {name: weight for name, weight in sparse.state_dict().items() if ".mlp." not in name}
    for index, layer in enumerate(sparse.model.layers):
        block = moe_weights(layer.mlp)
        weights.update({f"model.layers.{index}.mlp.{name}": weight for name, weight in block.items()})
    target.load_state_dict(weights)
    target.tie_weights()
    target.generation_config = GenerationConfig(
        bos_token_id=sparse.config.bos_token_id,
        eos_token_id=sparse.config.eos_token_id,
        pad_token_id=sparse.config.pad_token_id,
        **SETTINGS,
    )
    return target.eval()


def moe_config(llama: Any, shape: SplitShape) -> Any:
    """`Qwen2MoeConfig` of the same model as the Llama config `llama`, with its blocks split as in `shape`."""
    from transformers import Qwen2MoeConfig

    kept = """vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads
        head_dim hidden_act max_position_embeddings initializer_range rms_norm_eps rope_parameters
        tie_word_embeddings bos_token_id eos_token_id pad_token_id"""
    return Qwen2MoeConfig(
        **{name: getattr(llama, name) for name in kept.split()},
        moe_intermediate_size=shape.width,
        shared_expert_intermediate_size=shape.shared(llama.intermediate_size),
        num_experts=shape.experts,
        num_experts_per_tok=shape.top_k,
        norm_topk_prob=False,
        qkv_bias=False,
        decoder_sparse_step=1,
        use_sliding_window=False,
        output_router_logits=False,
    )


@torch.no_grad()
def moe_weights(block: SplitFfn) -> dict[str, torch.Tensor]:
    """Weights of a `Qwen2MoeSparseMoeBlock` that computes what `block` computes, by their name in that module."""
    shared, experts = block.shared_neurons, block.shape.experts
    gate_EWH = torch.unflatten(block.gate_FH[shared:], 0, (experts, -1))
    up_EWH = torch.unflatten(block.up_FH[shared:], 0, (experts, -1))
    down_EHW = torch.unflatten(block.down_HF[:, shared:], 1, (experts, -1)).transpose(0, 1)
    return {
        "gate.weight": block.router_EH * ROUTER_SCALE,
        "experts.gate_up_proj": torch.cat([gate_EWH, up_EWH], dim=1),
        "experts.down_proj": down_EHW.contiguous() * experts,
        "shared_expert.gate_proj.weight": block.gate_FH[:shared].clone(),
        "shared_expert.up_proj.weight": block.up_FH[:shared].clone(),
        # The shared expert passes through sigmoid(0) = 1/2.
        "shared_expert.down_proj.weight": block.down_HF[:, :shared] * 2,
        "shared_expert_gate.weight": torch.zeros(1, block.gate_FH.shape[1]),
    }
