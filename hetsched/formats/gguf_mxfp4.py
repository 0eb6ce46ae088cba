"""GGUF's MXFP4: 32 4-bit floats after their exponent; gpt-oss in llama.cpp's files. Shapes: N blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .gguf_blocks import GgufBlocks
from .mxfp4 import Mxfp4
from .nibbles import half_e8m0_of, halved_in, in_halves, in_turns, twice_e2m1_of

if TYPE_CHECKING:
    import torch


class GgufMxfp4(GgufBlocks):
    """The numbers of `mxfp4` in another order: the first 16 in the low nibbles. Packs as that does."""

    name = "gguf-mxfp4"
    block = (1, 32)
    block_bytes = 17

    def weights_of(self, blocks_Nb: torch.Tensor) -> torch.Tensor:
        """Numbers times a power of two. ggml reads them by integers, which know no negative zero."""
        return (twice_e2m1_of(in_halves(blocks_Nb[:, 1:])) + 0.0) * half_e8m0_of(blocks_Nb[:, :1])

    def blocks_of(self, weights_Nw: torch.Tensor) -> torch.Tensor:
        """Exponent, numbers."""
        import torch

        packed = Mxfp4().pack(weights_Nw)
        return torch.cat((packed["scales"], halved_in(in_turns(packed["blocks"][:, 0]))), dim=1)
