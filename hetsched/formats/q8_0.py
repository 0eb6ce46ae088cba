"""GGUF's Q8_0: 32 signed bytes after an fp16 scale. Shapes: N blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .gguf_blocks import GgufBlocks, as_half, half_at, inverse

if TYPE_CHECKING:
    import torch


class Q8_0(GgufBlocks):
    """Packs as ggml's reference quantiser does: the largest weight becomes 127, ties away from zero."""

    name = "q8_0"
    block = (1, 32)
    block_bytes = 34

    def weights_of(self, blocks_Nb: torch.Tensor) -> torch.Tensor:
        """Numbers times scale."""
        import torch

        return blocks_Nb[:, 2:].contiguous().view(torch.int8).float() * half_at(blocks_Nb, 0)

    def blocks_of(self, weights_Nw: torch.Tensor) -> torch.Tensor:
        """Scale, numbers."""
        import torch

        scale_N1 = weights_Nw.abs().amax(1, keepdim=True) / 127
        size = weights_Nw.abs() * inverse(scale_N1)
        whole = size.floor()
        numbers = (whole + (size - whole >= 0.5)) * weights_Nw.sign()
        return torch.cat((as_half(scale_N1), numbers.to(torch.int8).view(torch.uint8)), dim=1)
