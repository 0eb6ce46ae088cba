"""Quantised expert kernels: fewer bytes to read, other results. Off unless asked for; never mixed with lossless ones.

Shapes: T tokens, H hidden, F ffn, N output columns, K input columns, G groups of input columns.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F

from .base import SwigluWeights

GROUP = 32  # input columns that share a scale in int4

Packed: TypeAlias = tuple[torch.Tensor, torch.Tensor]


class _Quantised:
    """SwiGLU on packed matrices; subclasses pack one matrix and multiply by it."""

    lossless = False

    def pack(self, weights: SwigluWeights) -> tuple[Packed, Packed]:
        """A quantised copy of the weights."""
        return self._pack(weights.gate_up_2FH.float()), self._pack(weights.down_HF.float())

    def swiglu(self, hidden_TH: torch.Tensor, packed: tuple[Packed, Packed]) -> torch.Tensor:
        """down(silu(gate(x)) * up(x)): [T, H]."""
        gate, up = self._product(hidden_TH, packed[0]).chunk(2, dim=-1)
        return self._product((F.silu(gate) * up).contiguous(), packed[1])

    def linear(self, input_TK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
        """x times the transposed weights; quantises on every call, so only for tests."""
        return self._product(input_TK, self._pack(weight_NK.float()))

    def _pack(self, weight_NK: torch.Tensor) -> Packed:
        raise NotImplementedError

    def _product(self, input_TK: torch.Tensor, packed: Packed) -> torch.Tensor:
        raise NotImplementedError


class Int8(_Quantised):
    """8-bit weights, one scale a row, symmetric; torch's own kernel."""

    name = "int8"
    weight_bytes = 1.0

    def _pack(self, weight_NK: torch.Tensor) -> Packed:
        scale_N = (weight_NK.abs().amax(1) / 127).clamp_min(1e-12)
        return (weight_NK / scale_N[:, None]).round().to(torch.int8), scale_N

    def _product(self, input_TK: torch.Tensor, packed: Packed) -> torch.Tensor:
        product: Any = torch._weight_int8pack_mm(input_TK, packed[0], packed[1].to(input_TK.dtype))
        result: torch.Tensor = product
        return result


class Int4(_Quantised):
    """4-bit weights with scale and zero for every GROUP columns; torch's own kernel.

    Works on shapes that it can pack: rows a multiple of 16, columns a multiple of GROUP.
    """

    name = "int4"
    weight_bytes = 0.625  # half a byte, and two 16-bit numbers a group

    def _pack(self, weight_NK: torch.Tensor) -> Packed:
        rows, columns = weight_NK.shape
        grouped_NGk = weight_NK.view(rows, columns // GROUP, GROUP)
        low, high = grouped_NGk.aminmax(dim=-1, keepdim=True)
        scale = ((high - low) / 15).clamp_min(1e-12)
        levels = ((grouped_NGk - low) / scale).round().clamp(0, 15).to(torch.int32).view(rows, columns)
        scales_GN2 = torch.cat([scale, low + 8 * scale], dim=-1).transpose(0, 1).contiguous()
        return torch._convert_weight_to_int4pack_for_cpu(levels, 2), scales_GN2.bfloat16()

    def _product(self, input_TK: torch.Tensor, packed: Packed) -> torch.Tensor:
        scales = packed[1].to(input_TK.dtype)
        product: Any = torch._weight_int4pack_mm_for_cpu(input_TK, packed[0], GROUP, scales)
        result: torch.Tensor = product
        return result
