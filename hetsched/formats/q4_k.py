"""GGUF's Q4_K: 256 numbers of four bits, each 32 with a scale and a minimum of six bits, those with two in fp16.

Shapes: N blocks of 256 weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .gguf_blocks import GgufBlocks, as_half, half_at, inverse
from .nibbles import halved_in, in_halves

if TYPE_CHECKING:
    import torch


class Q4K(GgufBlocks):
    """Scale and minimum in fp16, 12 bytes of both in six bits, 128 bytes of numbers.

    Packs by plain rounding to nearest between each group's extremes, zero among them: worse than llama.cpp's search.
    """

    name = "q4_k"
    block = (1, 256)
    block_bytes = 144

    def weights_of(self, blocks_Nb: torch.Tensor) -> torch.Tensor:
        """scale * number - minimum."""
        scales_N8, minima_N8 = six_bits(blocks_Nb[:, 4:16])
        scale, minimum = half_at(blocks_Nb, 0) * scales_N8.float(), half_at(blocks_Nb, 2) * minima_N8.float()
        numbers = in_halves(blocks_Nb[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
        return (scale[..., None] * numbers.float() - minimum[..., None]).flatten(1)

    def blocks_of(self, weights_Nw: torch.Tensor) -> torch.Tensor:
        """The same the other way round."""
        import torch

        groups = weights_Nw.view(-1, 8, 32)
        below = -groups.amin(-1).clamp_max(0)
        width = (groups.amax(-1) + below).clamp_min(0) / 15
        whole = torch.stack((width.amax(1), below.amax(1)), dim=1) / 63
        halves = whole.to(torch.float16).float()
        scales_N8, minima_N8 = ((x * inverse(halves[:, i : i + 1])).round() for i, x in enumerate((width, below)))
        scale, minimum = halves[:, :1] * scales_N8, halves[:, 1:] * minima_N8
        numbers = ((groups + minimum[..., None]) * inverse(scale)[..., None]).round().clamp(0, 15).to(torch.uint8)
        small = from_six_bits(scales_N8.clamp(0, 63).to(torch.uint8), minima_N8.clamp(0, 63).to(torch.uint8))
        packed = halved_in(numbers.view(-1, 4, 64)).flatten(1)
        return torch.cat((as_half(whole[:, :1]), as_half(whole[:, 1:]), small, packed), dim=1)


def six_bits(bytes_N12: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight scales and eight minima of six bits, uint8 [N, 8] each.

    The first four of both are the low bits of bytes 0 to 3 and 4 to 7; the others have their low four bits in bytes 8
    to 11, scales below minima, and their high two above the first four's.
    """
    import torch

    first, second, third = bytes_N12.chunk(3, dim=1)
    scales = torch.cat((first & 63, third & 15 | (first >> 6) << 4), dim=1)
    minima = torch.cat((second & 63, third >> 4 | (second >> 6) << 4), dim=1)
    return scales, minima


def from_six_bits(scales_N8: torch.Tensor, minima_N8: torch.Tensor) -> torch.Tensor:
    """The inverse of `six_bits`: uint8 [N, 12]."""
    import torch

    (a, b), (c, d) = scales_N8.chunk(2, dim=1), minima_N8.chunk(2, dim=1)
    return torch.cat((a | (b >> 4) << 6, c | (d >> 4) << 6, b & 15 | (d & 15) << 4), dim=1)
