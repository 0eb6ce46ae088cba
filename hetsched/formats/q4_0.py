"""GGUF's Q4_0: 32 numbers of four bits, 0 to 15 for -8 to 7, after an fp16 scale. Shapes: N blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .gguf_blocks import GgufBlocks, as_half, half_at, inverse
from .nibbles import halved_in, in_halves

if TYPE_CHECKING:
    import torch


class Q4_0(GgufBlocks):
    """Packs as ggml's reference quantiser does: the weight of largest size becomes -8, whatever its sign."""

    name = "q4_0"
    block = (1, 32)
    block_bytes = 18

    def weights_of(self, blocks_Nb: torch.Tensor) -> torch.Tensor:
        """Numbers less 8, times scale."""
        return (in_halves(blocks_Nb[:, 2:]).float() - 8) * half_at(blocks_Nb, 0)

    def blocks_of(self, weights_Nw: torch.Tensor) -> torch.Tensor:
        """Scale, numbers."""
        import torch

        extreme = weights_Nw.gather(1, weights_Nw.abs().argmax(1, keepdim=True))
        scale_N1 = extreme / -8
        numbers = (weights_Nw * inverse(scale_N1) + 8.5).clamp(0, 15).to(torch.uint8)
        return torch.cat((as_half(scale_N1), halved_in(numbers)), dim=1)
