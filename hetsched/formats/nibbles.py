"""Two numbers of four bits to a byte, and small floats: bits that several formats share.

Shapes: B bytes of a group, N = 2 B numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by their bits; negative ones have the fourth
E2M1_BETWEEN = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def in_turns(bytes_B: torch.Tensor) -> torch.Tensor:
    """uint8 [..., B] to [..., N]: low nibble, high nibble of each byte."""
    import torch

    return torch.stack((bytes_B & 15, bytes_B >> 4), dim=-1).flatten(-2)


def in_halves(bytes_B: torch.Tensor) -> torch.Tensor:
    """uint8 [..., B] to [..., N]: all low nibbles, then all high ones, as GGUF does."""
    import torch

    return torch.cat((bytes_B & 15, bytes_B >> 4), dim=-1)


def turned_in(numbers_N: torch.Tensor) -> torch.Tensor:
    """The inverse of `in_turns`."""
    return numbers_N[..., ::2] | numbers_N[..., 1::2] << 4


def halved_in(numbers_N: torch.Tensor) -> torch.Tensor:
    """The inverse of `in_halves`."""
    low, high = numbers_N.chunk(2, dim=-1)
    return low | high << 4


def twice_e2m1_of(codes: torch.Tensor) -> torch.Tensor:
    """Twice the fp32 values of 4-bit floats: a sign, two bits of exponent, one of mantissa (OCP Microscaling v1.0)."""
    import torch

    table = torch.tensor([*E2M1, *(-value for value in E2M1)], device=codes.device) * 2
    return table[codes.int()]


def nearest_e2m1(values: torch.Tensor) -> torch.Tensor:
    """The bits, uint8, of the nearest 4-bit floats; ties to the even mantissa, what is too large to the largest."""
    import torch

    between = torch.tensor(E2M1_BETWEEN, device=values.device)
    size = values.abs()[..., None]
    codes = (size > between).sum(-1) + (size == between[1::2]).sum(-1)
    return (codes + 8 * values.signbit()).to(torch.uint8)


def half_e8m0_of(exponents: torch.Tensor) -> torch.Tensor:
    """Half of 2^(byte - 127), in fp32, which is too narrow for the last. To OCP the byte 255 is no number; to
    transformers, as here, it is 2^128."""
    import torch

    bits = exponents.int()
    return torch.where(bits < 2, 1 << (21 + bits), (bits - 1) << 23).int().view(torch.float32)
