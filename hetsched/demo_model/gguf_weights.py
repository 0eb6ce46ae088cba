"""A Llama model read from a GGUF file in one pass.

`from_pretrained(gguf_file=...)` of transformers does the same, but parses the file's 150,000 metadata entries twice,
and the build has better uses for half a minute.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_llama(path: Path) -> Any:
    """`LlamaForCausalLM` in float32 with tied embeddings, from the GGUF file `path` of a Llama model."""
    from gguf import GGUFReader, dequantize
    from transformers import LlamaForCausalLM

    reader = GGUFReader(path)
    config = llama_config(reader)
    model = LlamaForCausalLM(config)
    weights: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type), dtype=torch.float32)
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        for part, count in heads.items():
            if f".{part}." in tensor.name:
                weight = unpermute(weight, count)
        weights[transformers_name(tensor.name)] = weight
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    model.tie_weights()
    return model.eval()


def llama_config(reader: Any) -> Any:
    """`LlamaConfig` of the model in a `gguf.GGUFReader`."""
    from transformers import LlamaConfig

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    heads, hidden = field("llama.attention.head_count"), field("llama.embedding_length")
    return LlamaConfig(
        vocab_size=field("llama.vocab_size"),
        hidden_size=hidden,
        intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=field("llama.attention.head_count_kv"),
        head_dim=hidden // heads,
        max_position_embeddings=field("llama.context_length"),
        rms_norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field("llama.rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=field("tokenizer.ggml.bos_token_id"),
        eos_token_id=field("tokenizer.ggml.eos_token_id"),
        pad_token_id=field("tokenizer.ggml.padding_token_id"),
    )


def transformers_name(name: str) -> str:
    """Name of a weight in transformers, from its name in the GGUF file: `blk.3.ffn_up.weight` and the like."""
    layer, part = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name).groups()  # type: ignore[union-attr]
    return f"model.layers.{layer}.{NAMES[part]}.weight" if layer else f"{NAMES[part]}.weight"


def unpermute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Query or key weight [heads·D, H] with the two halves of each head as transformers wants them.

    GGUF interleaves the two halves that the rotary embedding turns together.
    """
    rows = weight.shape[0]
    return weight.reshape(heads, rows // heads // 2, 2, -1).transpose(1, 2).reshape(rows, -1)
