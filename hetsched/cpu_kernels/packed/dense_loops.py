# mypy: ignore-errors
# Numba compiles these functions from their own subset of Python; annotations would say nothing to it.
"""The loop of one dense product, from and to numbers of the model's dtype. Imports numba: only dense.py imports this.

All arguments are whole numbers, for numba looks at each array of a call, and a layer has several of these calls.
Names: x records of input, y rows of output. Shapes: T tokens, N output columns, K input columns.
"""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir
from numba import carray, prange, types
from numba.extending import intrinsic

from ...jit import bound, source_stamp, specialised, threaded
from ...jit.by_address import pointer_to, words_at
from . import stages

if TYPE_CHECKING:  # names that jit.threaded binds below
    read = write = numbers_at = arrange = product = bounds = None

HERE = "hetsched.cpu_kernels.packed.dense_loops"
NUMBERS = {"bf16": types.uint16, "fp16": types.uint16, "fp32": types.float32}
ZERO = np.float32(0)
HALF, FLOAT, I16, I32 = ir.HalfType(), ir.FloatType(), ir.IntType(16), ir.IntType(32)


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
    def multiply_dense(place, bias, given_at, wanted_at, tokens, parts):
        """[T, N] at `wanted_at` = [T, K] at `given_at` times a transposed matrix [N, K], in so many row ranges.

        `place`: address of twelve words: how to read the matrix (see stages), N, K, bytes of a record and how it is
        arranged. `bias` [N]: 0 for none.
        """
        assert stamp >= 0
        w = carray(words_at(place), 12)
        how, height, width = (w[0], w[1], w[2], w[3], w[4]), w[5], w[6]
        given, wanted = carray(numbers_at(given_at), (tokens, width)), carray(numbers_at(wanted_at), (tokens, height))
        x, at = np.zeros((tokens, w[7]), np.uint8), np.arange(tokens)
        wide_K, y = np.empty(width, np.float32), np.empty((tokens, height), np.float32)
        for t in range(tokens):
            for k in range(width):
                wide_K[k] = read(given[t, k])
            arrange(wide_K, 0, width, w[8:12], x.ctypes.data + t * w[7])
        for part in prange(parts):
            first, last = bounds(height, part, parts)
            product(how, x.ctypes.data, w[7], at.ctypes.data, tokens, width, y.ctypes.data, height, first, last)
            for t in range(tokens):
                for r in range(first, last):
                    wanted[t, r] = write(y[t, r] + (read(carray(numbers_at(bias), height)[r]) if bias else ZERO))

    return multiply_dense


@cache
def multiplying_dense(dtype, alone):
    """The kernel of a product for numbers of this dtype: bf16, fp16 or fp32. `alone`: one thread, the caller's."""
    read, write = CASTS[dtype]
    make, stamp = specialised if alone else threaded, source_stamp(HERE, *stages.SOURCES)
    parts = {part: bound("", getattr(stages, f"_{part}")) for part in ("arrange", "bounds", "product")}
    return make(dtype, _multiply_dense, stamp, read=read, write=write, numbers_at=pointer_to(NUMBERS[dtype]), **parts)
