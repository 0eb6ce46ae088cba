"""Small models with the same numbers twice: packed in a format, and unpacked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hetsched.formats import format_of
from hetsched.integrations.expert_modules import expert_modules
from hetsched.packed import StoredAs, layout_of, packed_layout, put_packed

FORMATS = ["mxfp4", "gguf-mxfp4", "fp8-block", "q8_0", "q4_0", "q4_k", "q6_k", "int4-group", "gptq", "awq", "bf16"]
PROMPT = torch.arange(3, 15)[None]
SIZES = {
    "vocab_size": 128,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "experts_implementation": "eager",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.1,
}


def qwen3_moe(**more: Any) -> Any:
    """A random Qwen3-MoE whose matrices every format can store, bf16."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    shape = {"moe_intermediate_size": 256, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **shape, **more)).to(torch.bfloat16).eval()


def gpt_oss(**more: Any) -> Any:
    """A random gpt-oss: transposed experts, gate and up in turns, biases, clamps; bf16."""
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(0)
    shape = {"intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
    model = GptOssForCausalLM(GptOssConfig(**SIZES, **shape, **more)).to(torch.bfloat16).eval()
    for module in expert_modules(model):
        for name in ("gate_up_proj_bias", "down_proj_bias"):
            torch.nn.init.normal_(getattr(module, name).data, std=0.5)
    return model


def pack(model: Any, up: Any, down: Any, matrices: int = 1, joined: str = "rows") -> Any:
    """The model with experts packed: `up` and `down` name formats, gate and up in so many matrices."""
    for module in expert_modules(model):
        stored = []
        for piece in layout_of(module).pieces:
            formats = {"gate_up_proj": (format_of(up),) * matrices, "down_proj": (format_of(down),)}.get(piece.name, ())
            join = joined if piece.name == "gate_up_proj" else "rows"
            stored.append(StoredAs(piece.name, piece.shape, piece.dtype, formats, join, module.is_transposed))
        layout = packed_layout(stored)
        rows = layout.allocate(module.num_experts)
        for e, row in enumerate(rows):
            layout.fill(row, {piece.name: getattr(module, piece.name).data[e] for piece in layout.pieces})
        put_packed(module, layout, rows)
    return model


def unpacked(make: Callable[[], Any], packed: Any) -> Any:
    """A plain model with a packed one's numbers."""
    plain = make()
    for module, other in zip(expert_modules(plain), expert_modules(packed), strict=True):
        for piece in layout_of(other).pieces:
            numbers = torch.stack([getattr(other, piece.name)[e] for e in range(other.num_experts)])
            getattr(module, piece.name).data = numbers
    return plain


def logits(model: Any) -> torch.Tensor:
    """Logits of a prompt, and of two decode steps behind it."""
    with torch.no_grad():
        out = model(PROMPT, use_cache=True)
        parts = [out.logits]
        for token in (17, 23):
            out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
            parts.append(out.logits)
    return torch.cat(parts, dim=1)
