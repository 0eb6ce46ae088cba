"""GGUF's Q6_K: 256 numbers of six bits, each 16 with a signed scale of eight bits, those with one in fp16.

Shapes: N blocks of 256 weights, whose halves of 128 are stored alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .gguf_blocks import GgufBlocks, as_half, half_at, inverse
from .nibbles import halved_in, in_halves

if TYPE_CHECKING:
    import torch

SHIFTS = (0, 2, 4, 6)


class Q6K(GgufBlocks):
    """128 bytes of low nibbles, 64 of high pairs of bits, 16 scales, an fp16 scale; numbers 0 to 63 mean -32 to 31.

    Packs by plain rounding to nearest, the largest of a group to 31: worse than llama.cpp's search.
    """

    name = "q6_k"
    block = (1, 256)
    block_bytes = 210

    def weights_of(self, blocks_Nb: torch.Tensor) -> torch.Tensor:
        """scale * (number - 32)."""
        import torch

        low = in_halves(blocks_Nb[:, :128].reshape(-1, 2, 64))
        pairs = blocks_Nb[:, 128:192].reshape(-1, 2, 32)
        high = torch.cat([pairs >> shift & 3 for shift in SHIFTS], dim=-1)
        numbers = (low | high << 4).view(-1, 16, 16).float() - 32
        scale = half_at(blocks_Nb, 208) * blocks_Nb[:, 192:208].contiguous().view(torch.int8).float()
        return (scale[..., None] * numbers).flatten(1)

    def blocks_of(self, weights_Nw: torch.Tensor) -> torch.Tensor:
        """The same the other way round."""
        import torch

        groups = weights_Nw.view(-1, 16, 16)
        size = groups.abs().amax(-1) / 31
        whole = size.amax(1, keepdim=True) / 127
        half = whole.to(torch.float16).float()
        scales = (size * inverse(half)).round().clamp(0, 127)
        numbers = (groups * inverse(half * scales)[..., None]).round().clamp(-32, 31).add(32).to(torch.uint8)
        halves = numbers.view(-1, 2, 128)
        high = (halves >> 4).view(-1, 2, 4, 32)
        pairs = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
        low = halved_in(halves & 15).flatten(1)
        return torch.cat((low, pairs.flatten(1), scales.to(torch.int8).view(torch.uint8), as_half(whole)), dim=1)
