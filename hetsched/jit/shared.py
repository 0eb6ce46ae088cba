"""Numbers that two threads share without a lock: one writes last what the other reads first.

What a thread wrote before `publish` is seen by the thread whose `observed` finds the new number.
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.extending import intrinsic


@intrinsic  # type: ignore[untyped-decorator]
def publish(context: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index] = value, after everything before it. For contiguous arrays of integers, in kernels only."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, _, given = signature.args
        place = _place(target, builder, kind, arguments[0], arguments[1])
        number = target.cast(builder, arguments[2], given, kind.dtype)
        builder.store_atomic(number, place, "release", target.get_abi_sizeof(number.type))
        return target.get_dummy_value()

    return types.void(array, types.int64, value), generate


@intrinsic  # type: ignore[untyped-decorator]
def observed(context: Any, array: Any, index: Any) -> Any:
    """array[index], before everything after it, as an int64."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        place = _place(target, builder, kind, arguments[0], arguments[1])
        size = target.get_abi_sizeof(target.get_data_type(kind.dtype))
        number = builder.load_atomic(place, "acquire", size)
        return target.cast(builder, number, kind.dtype, types.int64)

    return types.int64(array, types.int64), generate


def _place(target: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    return builder.gep(target.make_array(kind)(target, builder, array).data, [index])
