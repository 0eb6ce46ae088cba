"""Kernels that other kernels call by address: one loop for all of them, each compiled once and for itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import _bound, _kept, _once
from .parts import Entry


def specialised_by_name(name: str, template: Callable[[int], Any], stamp: int, signature: str, **kernels: Any) -> Entry:
    """As `specialised`, for arguments of this one signature, in numba's words; see `compiled_by_name`."""
    made = _once((name, template, stamp), kernels, lambda: _kept(_bound(name, template(stamp), kernels), signature))
    return cast(Entry, made)


def address_of(entry: Entry) -> int:
    """Where a kernel with a signature is, compiled now or read from disk; it must live as long as it may be called."""
    entry.make_ready()
    made = next(iter(entry.overloads.values()))
    return int(made.library.get_pointer_to_function(made.fndesc.mangled_name))


@intrinsic  # type: ignore[untyped-decorator]
def called_at(_context: Any, address: Any, words: Any) -> Any:
    """Call the kernel at an address, which takes so many int64, gives one, and raises nothing."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.call_conv.get_function_type(types.int64, list(signature.args[1]))
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        answer, error = (cgutils.alloca_once_value(builder, to.pointee(None)) for to in kind.args[:2])
        given = cgutils.unpack_tuple(builder, arguments[1], len(signature.args[1]))
        builder.call(function, [answer, error, *given])
        return builder.load(answer)

    return types.int64(types.int64, words), build


def pointer_to(kind: Any) -> Any:
    """What makes of an address a pointer to numbers of this kind, one of numba's types; carray makes an array of it."""

    @intrinsic  # type: ignore[untyped-decorator]
    def pointer(_context: Any, address: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), build

    return pointer


floats_at, words_at, bytes_at = pointer_to(types.float32), pointer_to(types.int64), pointer_to(types.int8)
