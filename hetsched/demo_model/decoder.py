"""The dense model one token a step, many texts at once: what `generate` of transformers does, several times faster.

Weights are laid out once, keys and values have their places from the beginning, and groups of query heads are
multiplied with the key head they share, which is never repeated.

Shapes: N rows, H hidden, V vocabulary, S positions, G key-value heads, Q query heads a group, D dimensions of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


class Decoder:
    """A Llama model's next-token logits for `rows` texts of at most `length` tokens, all equally long so far."""

    def __init__(self, model: Any, rows: int, length: int, dtype: torch.dtype) -> None:
        config = model.config
        self._groups, self._width = config.num_key_value_heads, config.head_dim
        self._queries = config.num_attention_heads // self._groups
        self._epsilon = config.rms_norm_eps
        self._embed_VH = model.model.embed_tokens.weight.detach().to(dtype)
        self._head_VH = model.lm_head.weight.detach().to(dtype)
        self._norm_H = model.model.norm.weight.detach().to(dtype)
        self._layers = [_weights(layer, dtype) for layer in model.model.layers]
        shape = (len(self._layers), rows, self._groups, length, self._width)
        self._keys_LNGSD, self._values_LNGSD = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        positions = torch.arange(length)[None]
        cos_1SD, sin_1SD = model.model.rotary_emb(self._norm_H.float(), positions)
        self._cos_SD, self._sin_SD = cos_1SD[0].to(dtype), sin_1SD[0].to(dtype)

    @torch.inference_mode()
    def step(self, tokens_N: torch.Tensor, position: int) -> torch.Tensor:
        """Logits [N, V] after these tokens, which stand at `position`."""
        x_NH = functional.embedding(tokens_N, self._embed_VH)
        for index, weights in enumerate(self._layers):
            qkv_NO = functional.linear(self._normed(x_NH, weights["norm"]), weights["qkv"])
            x_NH = x_NH + functional.linear(self._attended(index, position, qkv_NO), weights["o"])
            gate_NF, up_NF = functional.linear(self._normed(x_NH, weights["norm_2"]), weights["gate_up"]).chunk(2, -1)
            x_NH = x_NH + functional.linear(functional.silu(gate_NF) * up_NF, weights["down"])
        return functional.linear(self._normed(x_NH, self._norm_H), self._head_VH)

    def _normed(self, x_NH: torch.Tensor, weight_H: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x_NH, weight_H.shape, weight_H, self._epsilon)

    def _attended(self, index: int, position: int, qkv_NO: torch.Tensor) -> torch.Tensor:
        """What attention makes of a layer's projections of the newest token: [N, heads·D]."""
        heads_NXD = qkv_NO.view(len(qkv_NO), -1, self._width)
        queries = self._groups * self._queries
        turned_NXD, value_NGD = heads_NXD[:, : -self._groups], heads_NXD[:, -self._groups :]
        half = self._width // 2
        swapped_NXD = torch.cat([-turned_NXD[..., half:], turned_NXD[..., :half]], dim=-1)
        turned_NXD = turned_NXD * self._cos_SD[position] + swapped_NXD * self._sin_SD[position]
        query_NXD, key_NGD = turned_NXD[:, :queries], turned_NXD[:, queries:]
        self._keys_LNGSD[index, :, :, position] = key_NGD
        self._values_LNGSD[index, :, :, position] = value_NGD
        keys_NGSD = self._keys_LNGSD[index, :, :, : position + 1]
        values_NGSD = self._values_LNGSD[index, :, :, : position + 1]
        query_NGQD = query_NXD.reshape(-1, self._groups, self._queries, self._width)
        scores_NGQS = (query_NGQD @ keys_NGSD.transpose(-1, -2)).float() * self._width**-0.5
        mixed_NGQD: torch.Tensor = scores_NGQS.softmax(-1).to(values_NGSD.dtype) @ values_NGSD
        return mixed_NGQD.flatten(1)


def _weights(layer: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A layer's weights, those of the same input side by side."""
    attention, mlp = layer.self_attn, layer.mlp
    parts = {
        "norm": [layer.input_layernorm],
        "qkv": [attention.q_proj, attention.k_proj, attention.v_proj],
        "o": [attention.o_proj],
        "norm_2": [layer.post_attention_layernorm],
        "gate_up": [mlp.gate_proj, mlp.up_proj],
        "down": [mlp.down_proj],
    }
    return {name: torch.cat([part.weight.detach() for part in of]).to(dtype) for name, of in parts.items()}
