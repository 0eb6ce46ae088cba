"""A hybrid that transformers reads from GGUF itself: the same numbers from the same file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig

import hetsched
from hetsched.errors import InputError
from hetsched.loading.load import load_model
from hetsched.packed import PackedStack
from tests.architectures.tiny import tiny_config
from tests.packed.models import logits

from .made_gguf import KIND, NAMES, packed

LINEAR = {
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
    "post_attention_layernorm": "post_attention_norm",
}
WHOLE = {"linear_attn.A_log": "ssm_a", "linear_attn.dt_bias": "ssm_dt.bias"}
HEADS = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4}


def tiny() -> Any:
    widths = {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    return Qwen3_5MoeForCausalLM(tiny_config(Qwen3_5MoeTextConfig, {**HEADS, **widths, "rope_parameters": rope}))


def write(path: Path, model: Any, without: str = "none") -> None:
    """Random numbers in every tensor that llama.cpp has of such a model, but for one kind."""
    config, random = model.config, torch.Generator().manual_seed(0)
    writer = gguf.GGUFWriter(path, "qwen35moe")
    add_metadata(writer, config)
    for name, value in model.state_dict().items():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        stem = name[layer.end() :] if layer else name
        prefix = f"blk.{layer[1]}." if layer else ""
        numbers = torch.randn(value.shape, generator=random) * 0.2
        if stem.startswith("mlp.experts."):
            parts = {"ffn_down_exps": numbers}
            if stem.endswith("gate_up_proj"):
                parts = dict(zip(("ffn_gate_exps", "ffn_up_exps"), numbers.chunk(2, dim=1), strict=True))
            for called, part in parts.items():
                data, kind = packed(part, KIND.Q8_0)
                writer.add_tensor(f"{prefix}{called}.weight", data, raw_dtype=kind)
            continue
        if without in stem:
            continue
        called = WHOLE.get(stem) or {**NAMES, **LINEAR}[stem.removesuffix(".weight")] + ".weight"
        if called == "ssm_a":
            numbers = -numbers.abs() - 0.1
        if called.endswith("norm.weight"):
            numbers += 1
        squeezed = numbers.squeeze(1) if "conv1d" in called else numbers[0] if "inp_shexp" in called else numbers
        writer.add_tensor(f"{prefix}{called}", squeezed.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_metadata(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim // 2)
    writer.add_rope_dimension_sections([2, 1, 1, 0])
    writer.add_full_attention_interval(4)
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_inner_size(config.linear_num_value_heads * config.linear_value_head_dim)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    writer.add_token_list([str(number) for number in range(config.vocab_size)])


def test_a_hybrid_is_what_transformers_reads_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write(path, tiny())
    options: dict[str, Any] = {"dtype": torch.float32, "experts_implementation": "eager"}
    expected = logits(Qwen3_5MoeForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, **options))
    model = load_model(path, dtype="float32", progress=False)
    model.set_experts_implementation("eager")
    assert isinstance(model.model.layers[3].mlp.experts.down_proj, PackedStack)
    assert torch.isfinite(expected).all()
    assert torch.equal(logits(model), expected)
    with hetsched.attach(model, hardware="rtx-4060-laptop-8gb", gpu_memory="40%", time_scale=1.0):
        assert torch.equal(logits(model), expected)


def test_what_the_file_lacks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write(path, tiny(), without="linear_attn.in_proj_z")
    with pytest.raises(InputError, match=r"lacks 3 of the model's weights: model\.layers\.0\.linear_attn\.in_proj_z"):
        load_model(path, progress=False)
