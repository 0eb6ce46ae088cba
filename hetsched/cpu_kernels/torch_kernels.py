"""Expert kernels in plain torch: the baselines, and 16-bit weights multiplied in fp32 block by block.

Shapes: T tokens, H hidden, F ffn, N output columns, K input columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .base import SwigluWeights


class TorchLinear:
    """torch's own matrix product in the dtype of the weights: the baseline."""

    lossless = True

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.weight_bytes = float(dtype.itemsize)
        self.name = f"torch-{ {torch.float32: 'fp32', torch.bfloat16: 'bf16', torch.float16: 'fp16'}[dtype] }"

    def pack(self, weights: SwigluWeights) -> SwigluWeights:
        """The weights themselves."""
        return weights

    def swiglu(self, hidden_TH: torch.Tensor, packed: SwigluWeights) -> torch.Tensor:
        """down(silu(gate(x)) * up(x)): [T, H]."""
        gate, up = self.linear(hidden_TH, packed.gate_up_2FH).chunk(2, dim=-1)
        return self.linear(F.silu(gate) * up, packed.down_HF)

    def linear(self, input_TK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
        """x times the transposed weights: [T, N]."""
        return F.linear(input_TK.to(weight_NK.dtype), weight_NK).to(input_TK.dtype)


class Upcast:
    """16-bit weights widened to fp32 a block of rows at a time, then multiplied by torch's fp32 product.

    A block stays in the last-level cache, so memory is read once, at two bytes a weight; widening is exact, so the
    result is the fp32 reference's. Not for two threads at once: they would share the block.
    """

    lossless = True
    weight_bytes = 2.0
    name = "upcast"

    def __init__(self, block_bytes: int = 4 << 20) -> None:
        self.block_values = block_bytes // 4
        self._block = torch.empty(self.block_values)

    def pack(self, weights: SwigluWeights) -> SwigluWeights:
        """The weights themselves."""
        return weights

    def swiglu(self, hidden_TH: torch.Tensor, packed: SwigluWeights) -> torch.Tensor:
        """down(silu(gate(x)) * up(x)), fp32 in between: [T, H]."""
        gate, up = self._product(hidden_TH.float(), packed.gate_up_2FH).chunk(2, dim=-1)
        return self._product(F.silu(gate) * up, packed.down_HF).to(hidden_TH.dtype)

    def linear(self, input_TK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
        """x times the transposed weights: [T, N]."""
        return self._product(input_TK.float(), weight_NK).to(input_TK.dtype)

    def _product(self, input_TK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
        columns, width = weight_NK.shape
        rows = max(self.block_values // width, 1)
        out_TN = input_TK.new_empty(input_TK.shape[0], columns)
        for start in range(0, columns, rows):
            part = weight_NK[start : start + rows]
            block = self._wide(part.numel()).view(part.shape)
            block.copy_(part)
            out_TN[:, start : start + rows] = input_TK @ block.t()
        return out_TN

    def _wide(self, values: int) -> torch.Tensor:
        if values > self._block.numel():  # one row alone is wider than a block
            self._block = torch.empty(values)
        return self._block[:values]
