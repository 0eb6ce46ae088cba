"""AWQ's files ("gemm"): four bits, eight outputs of one input column in each int32, with scales and zeros for groups.

Lin et al., AWQ (2023); the layout is AutoAWQ's. It stores the transposed matrix: input columns run down.
Shapes: R rows = outputs, C columns = inputs, G = C / group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .base import Part, Parts, Shape, Stored, require_finite, scale_bytes
from .gptq import PER_WORD, eight_of, word_of

if TYPE_CHECKING:
    import torch

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of the eight outputs, that each four bits of a word belong to
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # of each output, the inverse


class Awq(Stored):
    """`qweight` int32 [C, R / 8], `qzeros` int32 [G, R / 8], `scales` float16 [G, R].

    Packs by plain rounding to nearest between a group's extremes, without AWQ's scaling of activations.
    """

    name = "awq"
    stored_as: Mapping[str, str] = {"qweight": "qweight", "qzeros": "qzeros", "scales": "scales"}

    def __init__(self, group: int = 128, scales: str = "float16") -> None:
        self.group, self.scales = group, scales
        self.block = (1, group)
        self.weight_bits = 4 + (8 * scale_bytes(self.name, scales, group) + 4) / group

    def tensors(self, shape: Shape) -> list[Part]:
        """Numbers, zeros and scales."""
        (rows, columns), groups = shape, self.in_blocks(shape)
        self.in_blocks((columns, rows), PER_WORD)
        return [
            Part("qweight", "int32", (columns, rows // PER_WORD)),
            Part("qzeros", "int32", (groups, rows // PER_WORD)),
            Part("scales", self.scales, (groups, rows)),
        ]

    def unpack(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See Format."""
        qweight, qzeros, scales = self.checked(parts, shape)
        numbers_CR = _in_order(eight_of(qweight), PLACES).view(-1, self.group, shape[0])
        weights_CR = (numbers_CR - _in_order(eight_of(qzeros), PLACES)[:, None]).float() * scales.float()[:, None]
        return weights_CR.view(shape[1], shape[0]).t().to(dtype).contiguous()

    def pack(self, weights_RC: torch.Tensor) -> dict[str, torch.Tensor]:
        """See Format."""
        import torch

        wide = require_finite(self.name, weights_RC)
        rows, columns = wide.shape
        groups_GgR = wide.t().reshape(self.in_blocks((rows, columns)), self.group, rows)
        low, high = groups_GgR.amin(1).clamp_max(0), groups_GgR.amax(1).clamp_min(0)
        scales = torch.where(high > low, (high - low) / 15, 1.0).to(getattr(torch, self.scales))
        zeros = (-low / scales.float()).round().clamp(0, 15)
        numbers = ((groups_GgR / scales.float()[:, None]).round() + zeros[:, None]).clamp(0, 15).view(columns, rows)
        packed, packed_zeros = (word_of(_in_order(x.int(), ORDER)) for x in (numbers, zeros))
        return {"qweight": packed, "qzeros": packed_zeros, "scales": scales}


def _in_order(numbers: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Every eight columns in another order."""
    return numbers.reshape(*numbers.shape[:-1], -1, PER_WORD)[..., list(order)].flatten(-2)
