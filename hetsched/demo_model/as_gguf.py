"""The demo model as a GGUF file that llama.cpp runs, too: its architecture "qwen2moe", with the tokenizer.

llama.cpp wants biases of attention, which are 0 here, and an output matrix, which is the embedding's again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import torch

from hetsched.demo_model.packer import Packer, tensors_of
from hetsched.demo_model.progress import Tick
from hetsched.formats import Format

ARCHITECTURE = "qwen2moe"
PRE_TOKENIZER = "smollm"  # llama.cpp's name of how SmolLM2's tokenizer splits text
KINDS = {name: getattr(gguf.GGMLQuantizationType, name.upper()) for name in ("bf16", "q8_0", "q4_0", "q4_k", "q6_k")}
KINDS["gguf-mxfp4"] = gguf.GGMLQuantizationType.MXFP4
FILE_TYPES = {
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q4_k": gguf.LlamaFileType.MOSTLY_Q4_K_S,
    "q6_k": gguf.LlamaFileType.MOSTLY_Q6_K,
    "mxfp4": gguf.LlamaFileType.MOSTLY_MXFP4_MOE,
}
TINY = 1e-20  # in place of a gate's zeros
BIASED = ("attn_q", "attn_k", "attn_v")


def gguf_writer(name: str, model: Any, source: Path, packer: Packer, tick: Tick, file: str) -> Callable[[Path], None]:
    """What writes the packed model to `file` in a folder. Dense matrices beside MXFP4 are Q8_0, as llama.cpp has it."""
    dense = Packer("q8_0" if name == "mxfp4" else packer.wanted, packer.others, packer.bytes_by_format)
    outer = Packer("bf16" if name == "bf16" else "q8_0", packer.others, packer.bytes_by_format)
    writer = gguf.GGUFWriter(None, ARCHITECTURE)
    _add_metadata(writer, model, name)
    _add_tokenizer(writer, model, source)
    for called, value in _tensors(model, tick):
        if value.ndim == 1 or "ffn_gate_inp" in called:
            writer.add_tensor(called, value.float().numpy())
            continue
        by = packer if "_exps" in called else dense if called.startswith("blk.") else outer
        laid, blocks = _packed(value, by)
        writer.add_tensor(called, blocks.numpy(), raw_dtype=KINDS[laid.name])

    def write(folder: Path) -> None:
        writer.write_header_to_file(folder / file)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return write


def _packed(value: torch.Tensor, packer: Packer) -> tuple[Format, torch.Tensor]:
    """The bytes of a matrix, or of a stack of them, in GGUF's order."""
    laid, parts = packer.packed(value.reshape(-1, value.shape[-1]))
    (blocks,) = parts.values()
    return laid, blocks.view(torch.uint8).view(*value.shape[:-1], -1)


def _tensors(model: Any, tick: Tick) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters by llama.cpp's names."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2MOE, model.config.num_hidden_layers)
    for name, value in tensors_of(model, tick):
        if name.endswith("experts.gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            for each, half in zip(("gate_proj", "up_proj"), value.chunk(2, dim=1), strict=True):
                yield f"{names.get_name(stem + each)}.weight", half
            continue
        called = names.get_name(name, try_suffixes=(".weight", ".bias")) or names.get_name(name)
        if called is None:
            raise RuntimeError(f"gguf-py has no name for {name}; please report this")
        called = called if called.endswith((".weight", ".bias")) else f"{called}.weight"
        yield called, _some(value[0]) if "ffn_gate_inp_shexp" in called else value
        stem, biased = called.removesuffix(".weight"), called.split(".")[-2] in BIASED
        if biased and not model.config.qkv_bias:
            yield f"{stem}.bias", torch.zeros(len(value))
        if called == "token_embd.weight" and model.config.tie_word_embeddings:
            yield "output.weight", value


def _some(gate: torch.Tensor) -> torch.Tensor:
    """The shared expert's gate. llama.cpp computes sigmoid(x) as silu(x) / x, which is no number at 0; next to it the
    gate is a half, too."""
    return gate if bool(gate.any()) else torch.full_like(gate, TINY)


def _add_metadata(writer: Any, model: Any, name: str) -> None:
    config = model.config
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(f"hetsched demo, {name}")
    writer.add_license("apache-2.0")
    writer.add_file_type(FILE_TYPES[name])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_sizes(writer, config)
    writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    writer.add_rope_dimension_count(config.head_dim)
    generation = model.generation_config
    drawn = {"temp": generation.temperature, "top_p": generation.top_p} if generation.do_sample else {}
    for key, value in {**drawn, "penalty_repeat": generation.repetition_penalty}.items():
        if value is not None:
            writer.add_float32(f"general.sampling.{key}", value)


def add_sizes(writer: Any, config: Any) -> None:
    """What GGUF says of a Mixture-of-Experts model's shape, whatever its architecture."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)


def _add_tokenizer(writer: Any, model: Any, source: Path) -> None:
    """Byte-level BPE as llama.cpp wants it, and the whole tokenizer.json for readers that take it as it is."""
    text = (source / "tokenizer.json").read_text(encoding="utf-8")
    whole = json.loads(text)
    vocabulary: dict[str, int] = whole["model"]["vocab"] | {
        each["content"]: each["id"] for each in whole["added_tokens"]
    }
    tokens = [token for token, _ in sorted(vocabulary.items(), key=lambda pair: pair[1])]
    special = {each["id"] for each in whole["added_tokens"] if each["special"]}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in whole["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if number in special else gguf.TokenType.NORMAL for number in range(len(tokens))]
    )
    writer.add_token_merges(merges)
    config = model.config
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    unknown = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8")).get("unk_token")
    if unknown in vocabulary:
        writer.add_unk_token_id(vocabulary[unknown])
    writer.add_add_bos_token(False)
    writer.add_string(gguf.Keys.Tokenizer.HF_JSON, text)
    template = source / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text(encoding="utf-8"))
