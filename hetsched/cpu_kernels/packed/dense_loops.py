# mypy: ignore-errors
# Numba compiles these functions from their own subset of Python; annotations would say nothing to it.
"""The loop of one dense product, from and to numbers of the model's dtype. Imports numba: only dense.py imports this.

All arguments are whole numbers, for numba looks at each array of a call, and a layer has several of these calls.
Names: x rows of input, y rows of output. Shapes: T tokens, N output columns, K input columns.
"""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir
from numba import carray, prange, types
from numba.extending import intrinsic

from ...jit import bound, source_stamp, specialised, threaded
from .loops import PACKAGE, _bounds, _named, _rows_of, _stamp

if TYPE_CHECKING:  # names that jit.bound and jit.threaded bind below
    read = write = place = order_place = rows = bounds = None

NUMBERS = {"bf16": types.uint16, "fp16": types.uint16, "fp32": types.float32}
HALF, FLOAT, I16, I32 = ir.HalfType(), ir.FloatType(), ir.IntType(16), ir.IntType(32)


def _pointer_to(kind):
    @intrinsic
    def pointer(_context, _address):
        """An address as a pointer."""

        def build(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), build

    return pointer


@intrinsic
def _wide_bf16(_context, _bits):
    """bf16 bits to float32: the upper half of the word."""

    def build(_target, builder, _signature, arguments):
        word = builder.shl(builder.zext(arguments[0], I32), ir.Constant(I32, 16))
        return builder.bitcast(word, FLOAT)

    return types.float32(types.uint16), build


@intrinsic
def _narrow_bf16(_context, _number):
    """A float32 to bits of the nearest bf16, a tie to the even; NaN stays NaN."""

    def build(_target, builder, _signature, arguments):
        bits = builder.bitcast(arguments[0], I32)
        odd = builder.and_(builder.lshr(bits, ir.Constant(I32, 16)), ir.Constant(I32, 1))
        near = builder.add(builder.add(bits, ir.Constant(I32, 0x7FFF)), odd)
        none = builder.fcmp_unordered("uno", arguments[0], arguments[0])
        word = builder.select(none, ir.Constant(I32, 0x7FC00000), near)
        return builder.trunc(builder.lshr(word, ir.Constant(I32, 16)), I16)

    return types.uint16(types.float32), build


@intrinsic
def _wide_fp16(_context, _bits):
    """fp16 bits to float32."""

    def build(_target, builder, _signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], HALF), FLOAT)

    return types.float32(types.uint16), build


@intrinsic
def _narrow_fp16(_context, _number):
    """A float32 to bits of the nearest fp16."""

    def build(_target, builder, _signature, arguments):
        return builder.bitcast(builder.fptrunc(arguments[0], HALF), I16)

    return types.uint16(types.float32), build


@intrinsic
def _same(_context, _number):
    """A float32 as it is."""
    return types.float32(types.float32), lambda _target, _builder, _signature, arguments: arguments[0]


CASTS = {"bf16": (_wide_bf16, _narrow_bf16), "fp16": (_wide_fp16, _narrow_fp16), "fp32": (_same, _same)}


def _multiply_dense(stamp):
    def multiply_dense(blocks, scales, wide, scale_wide, height, width, order, bias, x_at, y_at, tokens, parts):
        """y [T, N] = x [T, K] times the transposed matrix [N, K], and a bias [N] where its address is not 0.

        `order`: address of the column that each weight of a row is, int64 [K]; 0: as they come.
        """
        assert stamp >= 0
        given, wanted = carray(place(x_at), (tokens, width)), carray(place(y_at), (tokens, height))
        x, y = np.empty((tokens, width), np.float32), np.empty((tokens, height), np.float32)
        if order:
            columns = carray(order_place(order), width)
            for t in range(tokens):
                for k in range(width):
                    x[t, k] = read(given[t, columns[k]])
        else:
            for t in range(tokens):
                for k in range(width):
                    x[t, k] = read(given[t, k])
        for p in prange(parts):
            first, last = bounds(height, p, parts)
            rows((blocks, scales, wide, scale_wide), x, y, first, last)
            if bias:
                added = carray(place(bias), height)
                for t in range(tokens):
                    for r in range(first, last):
                        wanted[t, r] = write(y[t, r] + read(added[r]))
            else:
                for t in range(tokens):
                    for r in range(first, last):
                        wanted[t, r] = write(y[t, r])

    return multiply_dense


@cache
def multiplying_dense(unpacker, dtype, features, alone):
    """The kernel of a product for activations of this dtype: bf16, fp16 or fp32. `alone`: one thread, the caller's."""
    read, write = CASTS[dtype]
    make = specialised if alone else threaded
    return make(
        "+".join([_named(unpacker, features), dtype]),
        _multiply_dense,
        _stamp() ^ source_stamp(f"{PACKAGE}.dense_loops"),
        read=read,
        write=write,
        place=_pointer_to(NUMBERS[dtype]),
        order_place=_pointer_to(types.int64),
        rows=_rows_of(unpacker, features),
        bounds=bound("", _bounds),
    )
