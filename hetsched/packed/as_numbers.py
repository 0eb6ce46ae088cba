"""AsNumbers: packed weights that are a tensor of numbers to whoever looks at them; a look unpacks, and keeps nothing.

So a model computes with them what it would compute unpacked, bit for bit, slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from ..errors import InputError

aten = torch.ops.aten
Self = TypeVar("Self", bound="AsNumbers")
FROZEN = "packed {} cannot be {}: their numbers are the checkpoint's; load the model anew, with dtype= as you want"


class AsNumbers(torch.Tensor):
    """A tensor without memory of its own, over packed bytes. `what`: its name in errors.

    Raises InputError where it is written to, or, unless it `may_become_plain`, moved or converted. Has no gradient.
    """

    what = "weights"
    may_become_plain = True
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def unpacked(self) -> torch.Tensor:
        """All of it as plain numbers."""
        raise NotImplementedError

    def again(self: Self) -> Self:
        """Another tensor over the same bytes."""
        raise NotImplementedError

    def part(self, func: Any, args: Sequence[Any]) -> torch.Tensor | None:
        """What an operation that looks at a part of it gives, without unpacking the rest; None for any other."""
        return None

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
        if _writes(func):
            raise InputError(FROZEN.format(cls.what, "written to"))
        with torch.inference_mode(False):  # autograd takes views of none of that mode
            if isinstance(first, cls):
                same = func is aten._to_copy.default and _same(first, named)
                if same or func in (aten.detach.default, aten.alias.default):
                    return first.again()
                if (found := first.part(func, args)) is not None:
                    return found
            if func is aten._to_copy.default and not cls.may_become_plain:
                raise InputError(FROZEN.format(cls.what, "moved or converted"))
            return func(*(_plain(each) for each in args), **{name: _plain(each) for name, each in named.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, AsNumbers):
        return value.unpacked()
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _same(tensor: torch.Tensor, named: Mapping[str, Any]) -> bool:
    """Whether a copy would be of the same dtype and on the same device."""
    dtype, device = named.get("dtype") or tensor.dtype, named.get("device") or tensor.device
    return dtype == tensor.dtype and torch.device(device) == tensor.device


def _writes(func: Any) -> bool:
    schema = func._schema
    return any(each.alias_info is not None and each.alias_info.is_write for each in schema.arguments)
