"""A random Qwen3-MoE as files, safetensors and GGUF of the same numbers, for measuring whole models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

DISTINCT = 4  # experts of a layer that differ; the others are copies, read from memory of their own
DENSE = {"mxfp4": "q8_0"}  # what llama.cpp's own MXFP4 files have outside of the experts


class ModelSizes(NamedTuple):
    """Qwen3-30B-A3B's, but for the layers and the vocabulary. `hidden`: a multiple of 64; 8 experts are active."""

    layers: int = 4
    experts: int = 128
    hidden: int = 2048
    ffn: int = 768
    vocabulary: int = 8192


def made(folder: Path, format_: str, sizes: ModelSizes) -> Path:
    """FORMAT.gguf in a folder, written unless it is there: bf16, q8_0, q4_0 or mxfp4; beside bf16, safetensors."""
    target = folder / f"{format_}.gguf"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model = random_model(sizes)
        if format_ == "bf16":
            model.save_pretrained(folder / "safetensors", max_shard_size="2GB")
        write_gguf(model, target, format_)
    return target


def random_model(sizes: ModelSizes) -> Any:
    """The model in bf16, always the same numbers."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=3 * sizes.hidden,
        moe_intermediate_size=sizes.ffn,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.hidden // 64,
        num_key_value_heads=4,
        head_dim=128,
        num_experts=sizes.experts,
        num_experts_per_tok=8,
        norm_topk_prob=True,
        tie_word_embeddings=False,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    with torch.device("meta"):
        model = Qwen3MoeForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu").eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            _fill(parameter, random)
    return model


def _fill(parameter: torch.Tensor, random: torch.Generator) -> None:
    if parameter.ndim == 1:
        parameter.fill_(1.0)
        return
    few = parameter[:DISTINCT] if parameter.ndim == 3 else parameter
    few.copy_(torch.randn(few.shape, generator=random) * few.shape[-1] ** -0.5)
    for e in range(DISTINCT, len(parameter) if parameter.ndim == 3 else 0):
        parameter[e].copy_(parameter[e % DISTINCT])


def write_gguf(model: Any, target: Path, format_: str) -> None:
    """The model as llama.cpp reads it: matrices in a format, norms and routers in fp32."""
    import gguf

    from hetsched.demo_model.as_gguf import add_sizes

    written = target.with_suffix(".part")
    writer = gguf.GGUFWriter(written, "qwen3moe")
    add_sizes(writer, model.config)
    writer.add_vocab_size(model.config.vocab_size)
    _add_words(writer, model.config.vocab_size)
    dense = DENSE.get(format_, format_)
    _add(writer, "token_embd", model.model.embed_tokens.weight, dense)
    _add(writer, "output", model.lm_head.weight, dense)
    _add(writer, "output_norm", model.model.norm.weight, "fp32")
    for number, layer in enumerate(model.model.layers):
        attention, block = layer.self_attn, layer.mlp
        gate, up = block.experts.gate_up_proj.chunk(2, dim=1)
        for name, weight, kind in (
            ("attn_norm", layer.input_layernorm.weight, "fp32"),
            ("attn_q", attention.q_proj.weight, dense),
            ("attn_k", attention.k_proj.weight, dense),
            ("attn_v", attention.v_proj.weight, dense),
            ("attn_output", attention.o_proj.weight, dense),
            ("attn_q_norm", attention.q_norm.weight, "fp32"),
            ("attn_k_norm", attention.k_norm.weight, "fp32"),
            ("ffn_norm", layer.post_attention_layernorm.weight, "fp32"),
            ("ffn_gate_inp", block.gate.weight, "fp32"),
            ("ffn_gate_exps", gate.contiguous(), format_),
            ("ffn_up_exps", up.contiguous(), format_),
            ("ffn_down_exps", block.experts.down_proj, format_),
        ):
            _add(writer, f"blk.{number}.{name}", weight, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    written.rename(target)


def _add_words(writer: Any, size: int) -> None:
    """The least of a tokenizer that llama.cpp accepts; prompts are given in ids."""
    known = [*(chr(c) for c in range(33, 127)), "ab"]
    tokens = known + [f"<{i}>" for i in range(size - len(known))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(len(tokens) - 1)


def _add(writer: Any, name: str, weight: torch.Tensor, kind: str) -> None:
    import gguf
    import numpy as np

    weight = weight.detach()
    if kind == "fp32":
        writer.add_tensor(f"{name}.weight", weight.float().numpy())
        return
    type_ = gguf.GGMLQuantizationType[kind.upper()]
    if kind == "bf16":
        writer.add_tensor(f"{name}.weight", weight.view(torch.uint8).numpy(), raw_dtype=type_)
        return
    stacked = weight.ndim == 3
    packed = gguf.quants.quantize((weight[:DISTINCT] if stacked else weight).float().numpy(), type_)
    times = -(-len(weight) // DISTINCT) if stacked else 1
    writer.add_tensor(f"{name}.weight", np.concatenate([packed] * times)[: len(weight)], raw_dtype=type_)
