"""FP8 in blocks, as DeepSeek-V3 and Qwen3-FP8 publish it: e4m3 times a scale for every 128 x 128 weights.

DeepSeek-V3 Technical Report (2024), section 3.3.2. Shapes: R rows, C columns, S, D = R / 128, C / 128 rounded up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .base import Part, Parts, Shape, Stored, require_finite, scale_bytes

if TYPE_CHECKING:
    import torch

SIDE = 128
LARGEST = 448.0  # of e4m3fn


class Fp8Block(Stored):
    """`weights` float8_e4m3fn [R, C]; `scales` [S, D], float32 or bfloat16, to be multiplied by.

    Packing scales a block's largest weight to the largest value and rounds to nearest, ties to even.
    """

    name = "fp8-block"
    weight_bits = 8.0
    block = (SIDE, SIDE)
    stored_as: Mapping[str, str] = {"weights": "weight", "scales": "weight_scale_inv"}

    def __init__(self, scales: str = "float32") -> None:
        scale_bytes(self.name, scales)
        self.scales = scales

    def tensors(self, shape: Shape) -> list[Part]:
        """Weights and scales."""
        self.in_blocks(shape, 1)
        grid = (-(-shape[0] // SIDE), -(-shape[1] // SIDE))
        return [Part("weights", "float8_e4m3fn", shape), Part("scales", self.scales, grid)]

    def unpack(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See Format."""
        weights, scales = self.checked(parts, shape)
        return (weights.float() * _spread(scales.float(), shape)).to(dtype)

    def pack(self, weights_RC: torch.Tensor) -> dict[str, torch.Tensor]:
        """See Format."""
        import torch

        wide = require_finite(self.name, weights_RC)
        rows, columns = wide.shape
        padded = torch.nn.functional.pad(wide, (0, -columns % SIDE, 0, -rows % SIDE))
        largest = padded.view(-(-rows // SIDE), SIDE, -1, SIDE).abs().amax((1, 3))
        scales = torch.where(largest > 0, largest / LARGEST, 1.0).to(getattr(torch, self.scales))
        scaled = wide / _spread(scales.float(), (rows, columns))
        return {"weights": scaled.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), "scales": scales}


def _spread(scales_SD: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Each scale over its block."""
    return scales_SD.repeat_interleave(SIDE, 0)[: shape[0]].repeat_interleave(SIDE, 1)[:, : shape[1]]
