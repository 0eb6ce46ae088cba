"""What the general rule for tiny configs gets wrong, one architecture a line."""

from __future__ import annotations

from typing import Any

# Hybrids have one layer with full attention in several; without one, generation does not know its length.
FOUR_LAYERS = {"num_hidden_layers": 4}
DENSE_THEN_SPARSE = ["dense", "sparse", "sparse"]

CHANGES: dict[str, dict[str, Any]] = {
    "axk1": {"head_dim": 8},
    "bailing_hybrid": {"layer_group_size": 2},
    "beam": {"mlp_layer_types": DENSE_THEN_SPARSE},
    "deepseek_ocr2": {"mlp_layer_types": DENSE_THEN_SPARSE},
    "deepseek_v3": {"head_dim": 8},
    "dots1": {"n_shared_experts": 1},
    "dots3_note": {"use_sliding_window": False, "vision_config.pyramid_num_routed": [-1, 4, 8]},
    "ernie4_5_vl_moe": {
        "moe_intermediate_size": [24, 12],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    },
    "flint": {"mlp_only_layers": [0]},
    "gemma4": {"enable_moe_block": True, "global_head_dim": 16},
    "diffusion_gemma": {"global_head_dim": 16},
    "glm4v_moe": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [1, 1, 0],
        }
    },
    "glm5_next": {
        "index_kpool": 2,
        "qk_rope_head_dim": 0,
        "qk_nope_head_dim": 16,
        "num_hidden_layers": 4,
        "mlp_layer_types": [*DENSE_THEN_SPARSE, "sparse"],
    },
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 0, "expert_layer_period": 1, "expert_layer_offset": 0},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "full_attention"], "num_dense_layers": 1},
    "mimo_v2_flash": {"head_dim": 24, "num_attention_heads": 8},
    "muse_spark": {"audio_config.num_hidden_layers": 4, "audio_config.hidden_sizes": [16, 16, 16, 32]},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "moe"]},
    "qwen3_5_moe": FOUR_LAYERS,
    "qwen3_next": FOUR_LAYERS,
    "qwen4_exp": {
        **FOUR_LAYERS,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "qwen3_omni_moe": {"shared_expert_intermediate_size": 24},
    "zaya": {"num_experts_per_tok": 1},
}

# Models that cannot be built or run with text alone, and why. A smaller one of the architecture takes their place.
NOT_THESE = {
    "DiffusionGemmaForBlockDiffusion": "generates by denoising and returns no logits; test_shapes runs its two stacks",
    "Qwen3OmniMoeThinkerForConditionalGeneration": "its own default config lacks vision_start_token_id",
    "Qwen3OmniMoeTalkerForConditionalGeneration": "its own default config lacks spatial_merge_size",
    "Qwen3OmniMoeForConditionalGeneration": "its own default config lacks a field of the talker",
    "Qwen3OmniMoeTalkerCodePredictorModelForConditionalGeneration": "has no experts",
    "Qwen3OmniMoePreTrainedModelForConditionalGeneration": "is a base class",
    "Qwen3OmniMoeCode2WavTransformerModel": "has no experts",
}

# Expert modules that a text prompt does not reach: those of the vision tower, or for image tokens.
PARTLY_IDLE = {"dots3_note.Dots3NoteExperts": 2, "ernie4_5_vl_moe.Ernie4_5_VLMoeMoeExperts": 2}

# Models whose eager forward stops in bf16: what it says, and why.
EAGER_REFUSES_BF16 = {"inkling2.Inkling2Experts": "same dtype"}  # a state of its short convolution stays fp32
