"""PackedWeight: a linear module's weight in a format, a tensor of numbers to whoever looks at it.

Shapes: N rows = output columns, K input columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..errors import InputError
from ..formats import Format, Parts, Shape, views_of
from .stack import FROZEN, _same, _writes

aten = torch.ops.aten


class PackedWeight(torch.Tensor):
    """`held` uint8 [num_bytes]: a matrix [N, K] in a format. Each look unpacks it and keeps nothing.

    So a model computes with it what it would compute unpacked, bit for bit, slowly. Moved or converted it is plain
    numbers. Raises InputError where it is written to, and needs no gradient.
    """

    held: torch.Tensor
    format: Format
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

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

    def data_ptr(self) -> int:
        """Where its bytes begin."""
        return self.held.data_ptr()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"PackedWeight({list(self.shape)}, {self.dtype}, {self.format.name})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            memo[id(self)] = packed_parameter(self.held.clone(), self.format, self.matrix_shape, self.dtype)
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
            again = func in (aten.detach.default, aten.alias.default)
            if again or (func is aten._to_copy.default and _same(first, named)):
                with torch.inference_mode(False):  # a view to autograd, which takes none of that mode's tensors
                    return PackedWeight(first.held, first.format, first.matrix_shape, first.dtype)
        if _writes(func):
            raise InputError(FROZEN.format("written to").replace("experts", "weights"))
        with torch.inference_mode(False):  # the function may be a view as well
            return func(*(_plain(each) for each in args), **{name: _plain(each) for name, each in named.items()})


def packed_parameter(held: torch.Tensor, format_: Format, shape: Shape, dtype: torch.dtype) -> torch.nn.Parameter:
    """A linear module's weight [N, K], computed with in `dtype`, in bytes uint8 [num_bytes]; without gradients."""
    return torch.nn.Parameter(PackedWeight(held, format_, shape, dtype), requires_grad=False)


def _plain(value: Any) -> Any:
    if isinstance(value, PackedWeight):
        return value.unpacked()
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
