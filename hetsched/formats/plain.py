"""Weights as they are: fp32, bf16, fp16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .base import ITEM_BYTES, Part, Parts, Shape, Stored

if TYPE_CHECKING:
    import torch


class _Plain(Stored):
    """One number a weight. Packing rounds to the nearest."""

    dtype: str
    block = (1, 1)
    stored_as: Mapping[str, str] = {"weights": "weight"}

    @property
    def weight_bits(self) -> float:
        """Bits of a weight."""
        return 8.0 * ITEM_BYTES[self.dtype]

    def tensors(self, shape: Shape) -> list[Part]:
        """One: the weights."""
        self.in_blocks(shape)
        return [Part("weights", self.dtype, shape)]

    def unpack(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """See Format."""
        return self.checked(parts, shape)[0].to(dtype)

    def pack(self, weights_RC: torch.Tensor) -> dict[str, torch.Tensor]:
        """See Format; what is not finite stays so."""
        import torch

        return {"weights": weights_RC.detach().to(getattr(torch, self.dtype)).contiguous()}


class Fp32(_Plain):
    """IEEE single precision."""

    name, dtype = "fp32", "float32"


class Bf16(_Plain):
    """The upper half of single precision."""

    name, dtype = "bf16", "bfloat16"


class Fp16(_Plain):
    """IEEE half precision."""

    name, dtype = "fp16", "float16"
