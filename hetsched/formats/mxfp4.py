"""MXFP4 as gpt-oss publishes it: 4-bit floats e2m1, 32 of a row with one power of two (OCP Microscaling v1.0).

Shapes: R rows, C columns, G = C / 32 groups of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .base import Part, Parts, Shape, Stored, require_finite
from .nibbles import half_e8m0_of, in_turns, nearest_e2m1, turned_in, twice_e2m1_of

if TYPE_CHECKING:
    import torch

GROUP = 32
EMAX, BIAS = 2, 127  # exponent of the largest e2m1 value; of e8m0


class Mxfp4(Stored):
    """`blocks` uint8 [R, G, 16], the even columns' weights in the low nibbles; `scales` uint8 [R, G], exponents + 127.

    Packing takes the exponent of a group's largest weight and rounds to nearest, ties to even, as the standard says in
    section 6.3; weights beyond the largest value get that.
    """

    name = "mxfp4"
    weight_bits = 4.25
    block = (1, GROUP)
    stored_as: Mapping[str, str] = {"blocks": "_blocks", "scales": "_scales"}

    def tensors(self, shape: Shape) -> list[Part]:
        """Blocks and scales."""
        rows, groups = shape[0], self.in_blocks(shape)
        return [Part("blocks", "uint8", (rows, groups, GROUP // 2)), Part("scales", "uint8", (rows, groups))]

    def unpack(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See Format."""
        blocks, scales = self.checked(parts, shape)
        return (twice_e2m1_of(in_turns(blocks)) * half_e8m0_of(scales)[..., None]).to(dtype).view(shape)

    def pack(self, weights_RC: torch.Tensor) -> dict[str, torch.Tensor]:
        """See Format."""
        import torch

        rows, columns = weights_RC.shape
        groups = require_finite(self.name, weights_RC).reshape(rows, self.in_blocks((rows, columns)), GROUP)
        largest = groups.abs().amax(-1)
        exponents = torch.where(largest > 0, torch.frexp(largest).exponent - 1 - EMAX + BIAS, 0)
        scales = exponents.clamp(0, 2 * BIAS).to(torch.uint8)
        scaled = groups / half_e8m0_of(scales)[..., None] / 2
        return {"blocks": turned_in(nearest_e2m1(scaled)), "scales": scales}
