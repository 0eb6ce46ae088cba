"""What GGUF's block formats share: one tensor of bytes, a row's blocks one after another, scales inside of them.

Layouts as in ggml-common.h of ggml. Shapes: R rows, C columns, N blocks of all rows, b bytes of a block, w its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .base import Part, Parts, Shape, Stored, require_finite

if TYPE_CHECKING:
    import torch


class GgufBlocks(Stored):
    """`blocks` uint8 [R, C / w * b]. Subclasses say what one block holds."""

    block_bytes: int
    stored_as: Mapping[str, str] = {"blocks": ".weight"}

    @property
    def weight_bits(self) -> float:
        """Bits of a weight, scales included."""
        return 8.0 * self.block_bytes / self.block[1]

    def tensors(self, shape: Shape) -> list[Part]:
        """One: all blocks."""
        return [Part("blocks", "uint8", (shape[0], self.in_blocks(shape) * self.block_bytes))]

    def unpack(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See Format."""
        (blocks,) = self.checked(parts, shape)
        return self.weights_of(blocks.reshape(-1, self.block_bytes)).to(dtype).view(shape)

    def pack(self, weights_RC: torch.Tensor) -> dict[str, torch.Tensor]:
        """See Format."""
        rows, columns = weights_RC.shape
        self.in_blocks((rows, columns))
        wide = require_finite(self.name, weights_RC)
        return {"blocks": self.blocks_of(wide.reshape(-1, self.block[1])).view(rows, -1)}

    def weights_of(self, blocks_Nb: torch.Tensor) -> torch.Tensor:
        """fp32 [N, w] from uint8 [N, b]."""
        raise NotImplementedError

    def blocks_of(self, weights_Nw: torch.Tensor) -> torch.Tensor:
        """uint8 [N, b] from fp32 [N, w]."""
        raise NotImplementedError


def half_at(blocks_Nb: torch.Tensor, begin: int) -> torch.Tensor:
    """The fp16 at a byte of every block, in fp32: [N, 1]."""
    import torch

    return blocks_Nb[:, begin : begin + 2].contiguous().view(torch.float16).float()


def as_half(scale_N1: torch.Tensor) -> torch.Tensor:
    """The bytes of scales as fp16: uint8 [N, 2]."""
    import torch

    return scale_N1.to(torch.float16).view(torch.uint8)


def inverse(scale: torch.Tensor) -> torch.Tensor:
    """1 / scale, and 0 where that is not finite, as ggml has it."""
    import torch

    return torch.where(scale == 0, 0.0, 1 / scale)
