"""int4 groups of compressed-tensors ("pack-quantized", symmetric): Kimi-K2 and many others.

Eight numbers of four bits, 0 to 15 for -8 to 7, in each int32, the first column's lowest; a scale for every group of a
row. Shapes: R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .base import Part, Parts, Shape, Stored, require_finite, scale_bytes
from .nibbles import in_turns, turned_in

if TYPE_CHECKING:
    import torch

PER_WORD = 8


class Int4Group(Stored):
    """`packed` int32 [R, C / 8]; `scales` [R, C / group], bfloat16, float16 or float32.

    Packs as compressed-tensors does where it observes extremes: the largest weight becomes 7.5, rounded to nearest.
    """

    name = "int4-group"
    stored_as: Mapping[str, str] = {"packed": "weight_packed", "scales": "weight_scale"}

    def __init__(self, group: int = 32, scales: str = "bfloat16") -> None:
        self.group, self.scales = group, scales
        self.block = (1, group)
        self.weight_bits = 4 + 8 * scale_bytes(self.name, scales, group) / group

    def tensors(self, shape: Shape) -> list[Part]:
        """Numbers and scales."""
        groups = self.in_blocks(shape)
        self.in_blocks(shape, PER_WORD)
        packed = Part("packed", "int32", (shape[0], shape[1] // PER_WORD))
        return [packed, Part("scales", self.scales, (shape[0], groups))]

    def unpack(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See Format."""
        import torch

        packed, scales = self.checked(parts, shape)
        numbers = in_turns(packed.contiguous().view(torch.uint8)).view(shape[0], -1, self.group)
        return ((numbers.float() - 8) * scales.float()[..., None]).to(dtype).view(shape)

    def pack(self, weights_RC: torch.Tensor) -> dict[str, torch.Tensor]:
        """See Format."""
        import torch

        wide, shape = require_finite(self.name, weights_RC), (len(weights_RC), weights_RC.shape[1])
        groups = wide.view(len(wide), self.in_blocks(shape), self.group)
        largest = groups.abs().amax(-1)
        scales = torch.where(largest > 0, largest / 7.5, 1.0).to(getattr(torch, self.scales))
        numbers = (groups / scales.float()[..., None]).round().clamp(-8, 7).add(8).to(torch.uint8)
        return {"packed": turned_in(numbers.view(shape)).contiguous().view(torch.int32), "scales": scales}
