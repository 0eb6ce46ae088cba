"""GPTQ's files: four bits, eight of a column in each int32, with scales and zeros for groups of input columns.

Frantar et al., GPTQ (2022); the layout is AutoGPTQ's. It stores the transposed matrix: input columns run down.
Shapes: R rows = outputs, C columns = inputs, G = C / group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import InputError
from .base import Part, Parts, Shape, Stored, require_finite, scale_bytes

if TYPE_CHECKING:
    import torch

PER_WORD = 8


class Gptq(Stored):
    """`qweight` int32 [C / 8, R], `qzeros` int32 [G, R / 8], `scales` float16 [G, R]; `g_idx` int32 [C] may be given.

    A zero is stored less one, modulo 16 (`zero_offset`; GPTQModel's gptq_v2 stores it as it is: 0). `g_idx` must number
    the groups in order: a file made with act-order is refused. Packs by plain rounding to nearest with the zero at 8,
    not by GPTQ.
    """

    name = "gptq"
    stored_as: Mapping[str, str] = {"qweight": "qweight", "qzeros": "qzeros", "scales": "scales", "g_idx": "g_idx"}

    def __init__(self, group: int = 128, scales: str = "float16", zero_offset: int = 1) -> None:
        self.group, self.scales, self.zero_offset = group, scales, zero_offset
        self.block = (1, group)
        self.weight_bits = 4 + (8 * scale_bytes(self.name, scales, group) + 4) / group

    def tensors(self, shape: Shape) -> list[Part]:
        """Numbers, zeros and scales."""
        (rows, columns), groups = shape, self.in_blocks(shape)
        self.in_blocks((rows, columns), PER_WORD)
        self.in_blocks((columns, rows), PER_WORD)
        return [
            Part("qweight", "int32", (columns // PER_WORD, rows)),
            Part("qzeros", "int32", (groups, rows // PER_WORD)),
            Part("scales", self.scales, (groups, rows)),
        ]

    def unpack(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See Format."""
        qweight, qzeros, scales = self.checked(parts, shape)
        self.require_order(parts.get("g_idx"), shape[1])
        numbers_CR = eight_of(qweight.t()).t().reshape(-1, self.group, shape[0])
        zeros_GR = (eight_of(qzeros) + self.zero_offset & 15)[:, None]
        weights_CR = (numbers_CR - zeros_GR).float() * scales.float()[:, None]
        return weights_CR.view(shape[1], shape[0]).t().to(dtype).contiguous()

    def pack(self, weights_RC: torch.Tensor) -> dict[str, torch.Tensor]:
        """See Format."""
        import torch

        wide = require_finite(self.name, weights_RC)
        rows, columns = wide.shape
        groups_GgR = wide.t().reshape(self.in_blocks((rows, columns)), self.group, rows)
        largest = groups_GgR.abs().amax(1)
        scales = torch.where(largest > 0, largest / 7.5, 1.0).to(getattr(torch, self.scales))
        numbers = (groups_GgR / scales.float()[:, None]).round().clamp(-8, 7).add(8).int().view(columns, rows)
        zeros = torch.full((len(scales), rows), 8 - self.zero_offset, dtype=torch.int32)
        return {"qweight": word_of(numbers.t()).t().contiguous(), "qzeros": word_of(zeros), "scales": scales}

    def require_order(self, group_C: torch.Tensor | None, columns: int) -> None:
        """Raise InputError where a `g_idx` says more than that groups follow one another."""
        import torch

        if group_C is not None and not torch.equal(group_C.cpu().long(), torch.arange(columns) // self.group):
            raise InputError(
                "this GPTQ file reorders its input columns (g_idx); choose a checkpoint made with desc_act=false"
            )


def eight_of(words: torch.Tensor) -> torch.Tensor:
    """int32 [..., n] to int32 [..., 8 n]: numbers 0 to 15, the lowest bits first."""
    import torch

    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=words.device)
    return (words[..., None] >> shifts & 15).flatten(-2)


def word_of(numbers: torch.Tensor) -> torch.Tensor:
    """The inverse of `eight_of`."""
    import torch

    shifts = torch.arange(0, 32, 4, dtype=torch.int64)
    words = (numbers.long().reshape(*numbers.shape[:-1], -1, PER_WORD) << shifts).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()
