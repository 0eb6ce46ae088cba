"""PackedStack: a module's parameter [E, ...] over rows of packed experts, a tensor to whoever looks at it.

transformers' own forward indexes it by expert, which unpacks that expert; anything else unpacks them all. So a model
computes with it what it would compute unpacked, bit for bit, slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError

if TYPE_CHECKING:
    from .layout import PackedLayout, PackedPiece

aten = torch.ops.aten
FROZEN = "packed experts cannot be {}: their numbers are the checkpoint's; load the model anew, with dtype= as you want"


class PackedStack(torch.Tensor):
    """`rows` uint8 [E, row_bytes], one expert's all parameters each, of which this is `piece`.

    Raises InputError where it is written to, moved or converted, and needs no gradient.
    """

    rows: torch.Tensor
    layout_of_rows: PackedLayout
    piece: PackedPiece
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

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

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Callable[..., Any],
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """What torch calls for any operation with such a tensor among its arguments."""
        first, named = args[0] if args else None, kwargs or {}
        if isinstance(first, cls):
            with torch.inference_mode(False):  # these are views to autograd, which takes none of that mode's tensors
                if func in (aten.detach.default, aten.alias.default):
                    return first._again()
                if func is aten._to_copy.default and _same(first, named):
                    return first._again()
                if func is aten.select.int and args[1] == 0:
                    return first.piece.of(first.rows[args[2]])
                if func is aten.slice.Tensor and args[1:2] in ((), (0,)):
                    return PackedStack(first.rows[slice(*args[2:])], first.layout_of_rows, first.piece).unpacked()
        if _writes(func):
            raise InputError(FROZEN.format("written to"))
        if func is aten._to_copy.default:
            raise InputError(FROZEN.format("moved or converted"))
        with torch.inference_mode(False):  # the function may be a view as well
            return func(*(_plain(each) for each in args), **{name: _plain(each) for name, each in named.items()})

    def _again(self) -> PackedStack:
        return PackedStack(self.rows, self.layout_of_rows, self.piece)


def put_packed(module: Any, layout: PackedLayout, rows: torch.Tensor) -> None:
    """Let an expert module's parameters be those in `rows`, uint8 [E, row_bytes], which has no other copy of them."""
    for name, stacked in layout.stacked(rows).items():
        module._parameters[name] = as_parameter(stacked)


def as_parameter(stack: torch.Tensor) -> torch.nn.Parameter:
    """A module's parameter; without gradients, which packed numbers have none of."""
    return torch.nn.Parameter(stack, requires_grad=False)


def _plain(value: Any) -> Any:
    if isinstance(value, PackedStack):
        return value.unpacked()
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _same(stack: torch.Tensor, named: Mapping[str, Any]) -> bool:
    dtype, device = named.get("dtype") or stack.dtype, named.get("device") or stack.device
    return dtype == stack.dtype and torch.device(device) == stack.device


def _writes(func: Any) -> bool:
    schema = func._schema
    return any(each.alias_info is not None and each.alias_info.is_write for each in schema.arguments)
