"""Tiny GGUF files as llama.cpp's converters write them: names and orders as known here, not as the loader has them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from hetsched.formats import format_of

KIND = gguf.GGMLQuantizationType
OURS = {KIND.Q8_0: "q8_0", KIND.Q4_0: "q4_0", KIND.Q4_K: "q4_k", KIND.Q6_K: "q6_k", KIND.MXFP4: "gguf-mxfp4"}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.sinks": "attn_sinks",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.router": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate.e_score_correction": "exp_probs_b",
    "mlp.e_score_correction": "exp_probs_b",
    "mlp.gate.moe_statics.e_score_correction": "exp_probs_b",
}
ARCHITECTURES = {
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gpt_oss": "gpt-oss",
    "mixtral": "llama",
    "olmoe": "olmoe",
    "glm4_moe": "glm4moe",
    "dots1": "dots1",
    "minimax_m2": "minimax-m2",
    "deepseek_v3": "deepseek2",
    "ernie4_5_moe": "ernie4_5-moe",
}


def write(
    path: Path,
    model: Any,
    up: Any,
    down: Any,
    dense: Any = KIND.Q8_0,
    tensors: int = 0,
    more: Callable[[Any], None] = lambda _: None,
) -> None:
    """`model` as a GGUF file, gate and up in type `up`; at most so many tensors a shard (0: one file).

    `more`: adds metadata to the writer.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, ARCHITECTURES[config.model_type], split_max_tensors=tensors)
    add_metadata(writer, config)
    more(writer)
    for name, value in stored(model):
        kind = down if ".ffn_down_exps" in name else up if "_exps" in name else dense
        if value.ndim == 1 or "ffn_gate_inp" in name or "exps.bias" in name:
            kind = KIND.F32
        data, raw = packed(value, kind)
        writer.add_tensor(name, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_metadata(writer: Any, config: Any) -> None:
    """What llama.cpp's converters write of these architectures."""
    said = config.to_dict()
    heads = said["num_attention_heads"]
    head_dim = said.get("head_dim") or said["hidden_size"] // heads
    writer.add_context_length(said["max_position_embeddings"])
    writer.add_block_count(said["num_hidden_layers"])
    writer.add_embedding_length(said["hidden_size"])
    writer.add_feed_forward_length(said["intermediate_size"])
    writer.add_head_count(heads)
    if said.get("kv_lora_rank"):
        add_latent(writer, said)
    else:
        writer.add_head_count_kv(said["num_key_value_heads"])
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(said["rms_norm_eps"])
    counts = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    writer.add_expert_count(next(said[name] for name in counts if said.get(name)))
    writer.add_expert_used_count(said.get("num_experts_per_tok") or said["moe_k"])
    rope = said["rope_parameters"]
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    more = {
        "moe_intermediate_size": writer.add_expert_feed_forward_length,
        "shared_expert_intermediate_size": writer.add_expert_shared_feed_forward_length,
        "n_shared_experts": writer.add_expert_shared_count,
        "moe_num_shared_experts": writer.add_expert_shared_count,
        "moe_layer_interval": writer.add_interleave_moe_layer_step,
        "moe_layer_start_index": writer.add_leading_dense_block_count,
        "first_k_dense_replace": writer.add_leading_dense_block_count,
        "routed_scaling_factor": writer.add_expert_weights_scale,
        "n_group": writer.add_expert_group_count,
        "topk_group": writer.add_expert_group_used_count,
        "sliding_window": writer.add_sliding_window,
    }
    for key, add in more.items():
        if said.get(key) is not None:
            add(said[key])
    if said["model_type"] in ("glm4_moe", "dots1", "deepseek_v3"):
        writer.add_expert_weights_norm(said["norm_topk_prob"])
    for name, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        add(said[f"{name}_token_id"])


def add_latent(writer: Any, said: dict[str, Any]) -> None:
    """Of latent attention, which llama.cpp computes as one head of keys for all."""
    writer.add_head_count_kv(1)
    writer.add_q_lora_rank(said["q_lora_rank"])
    writer.add_kv_lora_rank(said["kv_lora_rank"])
    writer.add_key_length(said["kv_lora_rank"] + said["qk_rope_head_dim"])
    writer.add_value_length(said["kv_lora_rank"])
    writer.add_key_length_mla(said["qk_nope_head_dim"] + said["qk_rope_head_dim"])
    writer.add_value_length_mla(said["v_head_dim"])


def stored(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a model by llama.cpp's name, in its order of rows, fp32."""
    config = model.config
    for name, value in model.state_dict().items():
        if name in model.all_tied_weights_keys:
            continue
        layer, _, stem = name.removeprefix("model.layers.").partition(".")
        layer, stem = (f"blk.{layer}.", stem) if name.startswith("model.layers.") else ("", name)
        value = value.float()
        if stem.startswith("mlp.experts."):
            yield from experts(layer, stem.removeprefix("mlp.experts."), value, model)
            continue
        stem, kind = re.fullmatch(r"(.*?)[._]?(weight|bias|)", stem).groups()  # type: ignore[union-attr]
        if stem == "self_attn.kv_b_proj":
            keys, values = value.view(config.num_attention_heads, -1, value.shape[1]).split(
                [config.qk_nope_head_dim, config.v_head_dim], dim=1
            )
            yield f"{layer}attn_k_b.weight", keys.transpose(1, 2)
            yield f"{layer}attn_v_b.weight", values
            continue
        called = NAMES[stem]
        if config.model_type in ("gpt_oss", "glm4_moe") and called == "ffn_norm":
            called = "post_attention_norm"
        if config.model_type == "mixtral" and called in ("attn_q", "attn_k"):
            heads = config.num_attention_heads if called == "attn_q" else config.num_key_value_heads
            value = value.view(heads, 2, -1, value.shape[1]).transpose(1, 2).reshape(value.shape)
        if called == "ffn_gate_inp_shexp":
            value = value[0]
        yield f"{layer}{called}.{kind or 'weight'}", value


def experts(layer: str, stem: str, value: torch.Tensor, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Stacked experts, gate and up apart."""
    kind = "bias" if stem.endswith("_bias") else "weight"
    if model.config.model_type == "gpt_oss":
        value = value if kind == "bias" else value.transpose(1, 2)
        gate, up = value[:, ::2], value[:, 1::2]
    else:
        gate, up = value.chunk(2, dim=1)
    if stem.startswith("down"):
        yield f"{layer}ffn_down_exps.{kind}", value
    else:
        yield f"{layer}ffn_gate_exps.{kind}", gate
        yield f"{layer}ffn_up_exps.{kind}", up


def packed(value: torch.Tensor, kind: Any) -> tuple[np.ndarray[Any, Any], Any]:
    """The bytes of a tensor in a type, and the type."""
    whole = value.contiguous()
    if kind in OURS:
        blocks = format_of(OURS[kind]).pack(whole.view(-1, whole.shape[-1]))["blocks"]
        return blocks.view(*whole.shape[:-1], -1).numpy(), kind
    return gguf.quants.quantize(whole.numpy(), kind), kind


def unpacked(path: Path, model: Any) -> Any:
    """A model like this one with the numbers that gguf-py unpacks of a file or its shards, as transformers loads it.

    Where each number belongs is found by writing a model of counted numbers.
    """
    counted, sizes = copy.deepcopy(model).float(), dict[str, int]()
    with torch.no_grad():
        for name, value in counted.state_dict().items():
            if name not in model.all_tied_weights_keys:
                begin = sum(sizes.values())
                sizes[name] = value.numel()
                value.copy_(torch.arange(begin, begin + value.numel()).view(value.shape))
    numbers = torch.full((sum(sizes.values()),), float("nan"))
    assert len(numbers) < 1 << 24  # or fp32 counts them no more
    found = {tensor.name: tensor for file in files(path) for tensor in gguf.GGUFReader(file).tensors}
    for name, places in stored(counted):
        weights = gguf.quants.dequantize(found[name].data, found[name].tensor_type)
        numbers[places.long().flatten()] = torch.from_numpy(np.array(weights, dtype=np.float32)).flatten()
    assert numbers.isfinite().all()
    made, parts = copy.deepcopy(model), dict(zip(sizes, torch.split(numbers, list(sizes.values())), strict=True))
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if name in parts:
                value.copy_(parts[name].view(value.shape))
    folder = path.with_suffix(".unpacked")
    made.save_pretrained(folder)
    return type(model).from_pretrained(folder, dtype=model.dtype, experts_implementation="eager")


def files(path: Path) -> list[Path]:
    """The file, or its shards."""
    return [path] if path.exists() else sorted(path.parent.glob(f"{path.stem}-*.gguf"))
