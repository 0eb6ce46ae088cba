"""PackedWeight: a linear module's weight in a format.

Shapes: N rows = output columns, K input columns.
"""

from __future__ import annotations

from typing import Any

import torch

from ..formats import Format, Parts, Shape, views_of
from .as_numbers import AsNumbers


class PackedWeight(AsNumbers):
    """`held` uint8 [num_bytes]: a matrix [N, K] in a format. Moved or converted it is plain numbers; see AsNumbers."""

    held: torch.Tensor
    format: Format

    @staticmethod
    def __new__(cls, held: torch.Tensor, format_: Format, shape: Shape, dtype: torch.dtype) -> PackedWeight:
        """A tensor [N, K] without memory of its own."""
        made: PackedWeight = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=held.device)
        made.held, made.format = held, format_
        return made

    @property
    def matrix_shape(self) -> Shape:
        """N and K."""
        return self.shape[0], self.shape[1]

    def parts(self) -> Parts:
        """Its parts in the bytes; views."""
        return views_of(self.held, self.format, self.matrix_shape)

    def unpacked(self) -> torch.Tensor:
        """The numbers [N, K], rounded once to its dtype."""
        return self.format.unpack(self.parts(), self.matrix_shape, self.dtype)

    def again(self) -> PackedWeight:
        """Another one of the same bytes."""
        return PackedWeight(self.held, self.format, self.matrix_shape, self.dtype)

    def data_ptr(self) -> int:
        """Where its bytes begin."""
        return self.held.data_ptr()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"PackedWeight({list(self.shape)}, {self.dtype}, {self.format.name})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            memo[id(self)] = packed_parameter(self.held.clone(), self.format, self.matrix_shape, self.dtype)
        return memo[id(self)]


def packed_parameter(held: torch.Tensor, format_: Format, shape: Shape, dtype: torch.dtype) -> torch.nn.Parameter:
    """A linear module's weight [N, K], computed with in `dtype`, in bytes uint8 [num_bytes]; without gradients."""
    return torch.nn.Parameter(PackedWeight(held, format_, shape, dtype), requires_grad=False)
