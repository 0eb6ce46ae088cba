"""PackedStack: a module's parameter [E, ...] over rows of packed experts.

transformers' own forward indexes it by expert, which unpacks that expert; anything else unpacks them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .as_numbers import AsNumbers, aten

if TYPE_CHECKING:
    from .layout import PackedLayout, PackedPiece


class PackedStack(AsNumbers):
    """`rows` uint8 [E, row_bytes], one expert's all parameters each, of which this is `piece`; see AsNumbers."""

    rows: torch.Tensor
    layout_of_rows: PackedLayout
    piece: PackedPiece
    what = "experts"
    may_become_plain = False

    @staticmethod
    def __new__(cls, rows: torch.Tensor, layout: PackedLayout, piece: PackedPiece) -> PackedStack:
        """A tensor [E, *piece.shape] without memory of its own."""
        shape = (len(rows), *piece.shape)
        made: PackedStack = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=piece.dtype, device=rows.device)
        made.rows, made.layout_of_rows, made.piece = rows, layout, piece
        return made

    def unpacked(self) -> torch.Tensor:
        """All experts' numbers, [E, ...]."""
        return torch.stack([self.piece.of(row) for row in self.rows])

    def again(self) -> PackedStack:
        """Another one of the same rows."""
        return PackedStack(self.rows, self.layout_of_rows, self.piece)

    def part(self, func: Any, args: Sequence[Any]) -> torch.Tensor | None:
        """One expert, or some, by their numbers."""
        if func is aten.select.int and args[1] == 0:
            return self.piece.of(self.rows[args[2]])
        if func is aten.slice.Tensor and args[1:2] in ((), (0,)):
            return PackedStack(self.rows[slice(*args[2:])], self.layout_of_rows, self.piece).unpacked()
        return None

    def data_ptr(self) -> int:
        """Where its bytes begin."""
        return self.rows.data_ptr() + self.piece.begin

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        formats = "+".join(dict.fromkeys(matrix.format.name for matrix in self.piece.matrices))
        return f"PackedStack({list(self.shape)}, {self.dtype}, {formats})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """With rows of its own, which the other parameters of the same experts share."""
        if id(self) not in memo:
            if id(self.rows) not in memo:
                memo[id(self.rows)] = self.rows.clone()
            memo[id(self)] = as_parameter(PackedStack(memo[id(self.rows)], self.layout_of_rows, self.piece))
        return memo[id(self)]


def put_packed(module: Any, layout: PackedLayout, rows: torch.Tensor) -> None:
    """Let an expert module's parameters be those in `rows`, uint8 [E, row_bytes], which has no other copy of them."""
    for name, stacked in layout.stacked(rows).items():
        module._parameters[name] = as_parameter(stacked)


def as_parameter(stack: torch.Tensor) -> torch.nn.Parameter:
    """A module's parameter; without gradients, which packed numbers have none of."""
    return torch.nn.Parameter(stack, requires_grad=False)
