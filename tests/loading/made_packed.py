"""Tiny checkpoints packed as published ones are, each with the same numbers plain beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from hetsched.formats import Format
from hetsched.formats.awq import Awq
from hetsched.formats.fp8_block import Fp8Block
from hetsched.formats.gptq import Gptq
from hetsched.formats.int4_group import Int4Group

EXPERTS = r"\.experts\.\d+\."
LINEARS = r"(_proj|_with_mqa|gate_up_proj)\.weight$"
SIZES = {"vocab_size": 160, "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "dtype": "bfloat16"}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
ACT_ORDER = {"bits": 4, "group_size": 128, "desc_act": False, "sym": True}
INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "actorder": None}


class Published(NamedTuple):
    """How a checkpoint is packed: which tensors of a plain one, and what its config says."""

    kind: str
    laid: Format
    which: str
    settings: dict[str, Any]
    scales: torch.dtype = torch.float32


def int4(group: int, **more: Any) -> dict[str, Any]:
    """compressed-tensors' settings."""
    weights = INT4 | {"group_size": group} | more
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups, "ignore": []}


PUBLISHED = {
    "deepseek-v3": Published("deepseek_v3", Fp8Block(), LINEARS, FP8),
    "qwen3-moe-fp8": Published("qwen3_moe", Fp8Block("bfloat16"), LINEARS, FP8),
    "int4-32": Published("qwen3_moe", Int4Group(32), EXPERTS, int4(32)),
    "int4-128": Published("qwen3_moe", Int4Group(128), LINEARS, int4(128)),
    "int4-one-layer": Published("qwen3_moe", Int4Group(32), r"layers\.1\..*" + EXPERTS, int4(32)),
    "int4-down": Published("qwen3_moe", Int4Group(32), EXPERTS + "down", int4(32)),
    "gptq": Published("qwen3_moe", Gptq(128), LINEARS, {"quant_method": "gptq", **ACT_ORDER}),
    "gptq-v2": Published(
        "qwen3_moe",
        Gptq(32, zero_offset=0),
        LINEARS,
        {"quant_method": "gptq", "checkpoint_format": "gptq_v2", **ACT_ORDER, "group_size": 32},
    ),
    "awq": Published(
        "qwen3_moe", Awq(128), LINEARS, {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
    ),
}


def plain_model(kind: str) -> Any:
    """A random model in bf16."""
    import transformers

    qwen: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "head_dim": 32}
    deepseek: dict[str, Any] = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
    deepseek |= {"first_k_dense_replace": 1, "n_shared_experts": 1, "n_group": 2, "topk_group": 1}
    deepseek |= {"kv_lora_rank": 64, "q_lora_rank": 64, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16}
    both = {**SIZES, **TOKENS, "intermediate_size": 384, "initializer_range": 0.1}
    torch.manual_seed(0)
    if kind == "deepseek_v3":
        config: Any = transformers.DeepseekV3Config(
            **both, **deepseek, v_head_dim=16, num_key_value_heads=4, num_nextn_predict_layers=0
        )
        return transformers.DeepseekV3ForCausalLM(config).to(torch.bfloat16).eval()
    config = transformers.Qwen3MoeConfig(**both, **qwen, num_key_value_heads=2)
    return transformers.Qwen3MoeForCausalLM(config).to(torch.bfloat16).eval()


def made_packed(folder: Path, name: str, **changes: Any) -> Path:
    """The checkpoint `folder`/packed; returns `folder`/plain, the model that it unpacks to. `changes`: of settings."""
    packed, plain = folder / "packed", folder / "plain"
    published = PUBLISHED[name]
    plain_model(published.kind).save_pretrained(plain)
    packed.mkdir()
    stored, unpacked = {}, {}
    for key, value in load_file(plain / "model.safetensors").items():
        if not re.search(published.which, key):
            stored[key] = unpacked[key] = value
            continue
        parts = published.laid.pack(value)
        unpacked[key] = published.laid.unpack(parts, (len(value), value.shape[1]), torch.bfloat16)
        stored |= as_published(key.removesuffix("weight"), parts, published.laid, tuple(value.shape))
    save_file(stored, packed / "model.safetensors", {"format": "pt"})
    save_file(unpacked, plain / "model.safetensors", {"format": "pt"})
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = published.settings | changes
    (packed / "config.json").write_text(json.dumps(config))
    return plain


def as_published(stem: str, parts: Mapping[str, torch.Tensor], laid: Format, shape: tuple[int, ...]) -> dict[str, Any]:
    """A matrix's tensors by their names, with those that tools write and nobody needs."""
    found = {stem + laid.stored_as[part]: tensor for part, tensor in parts.items()}
    if isinstance(laid, Int4Group):
        found[f"{stem}weight_shape"] = torch.tensor(shape)
    if isinstance(laid, Gptq):
        found[f"{stem}g_idx"] = (torch.arange(shape[1]) // laid.group).int()
    return found


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A single file, after a change to its tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
