"""A model small enough to run anywhere, with everything that a Mixture-of-Experts model has."""

from __future__ import annotations

from typing import Any


def tiny_moe(seed: int = 0, layers: int = 3, experts: int = 8) -> Any:
    """A random Qwen2-MoE of a few hundred kilobytes, eager experts, in evaluation mode."""
    import torch
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    torch.manual_seed(seed)
    config = Qwen2MoeConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=32,
        num_experts=experts,
        num_experts_per_tok=4,
        initializer_range=0.3,
        experts_implementation="eager",
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return Qwen2MoeForCausalLM(config).eval()
