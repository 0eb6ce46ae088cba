# mypy: ignore-errors
# Numba compiles these functions from their own subset of Python; annotations would say nothing to it.
"""Loops over rows, tokens and experts around the products of `dots`. Imports numba: only kernels.py imports this.

Rows are taken four or two at a time, a part of the range apart, so that as many streams run through memory; see
numba_loops. Names: x rows of input, y rows of output, h and u those of gate and up; a matrix is four numbers: the
addresses of its blocks and scales, and the bytes from row to row of both.
Shapes: T tokens, S tokens sorted by expert, N experts or output columns, K input columns, H hidden, F ffn.
"""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numba import carray, prange, set_num_threads, types
from numba.extending import intrinsic

from ...jit import bound, source_stamp, threaded
from .dots import dot_of, wide_of

if TYPE_CHECKING:  # names that jit.bound and jit.threaded bind below
    few = many = left_over = dot_11 = dot_41 = dot_42 = dot_23 = dot_24 = None
    share = floats_at = activation = add_bias = up_rows = down_rows = bounds = inner = outer = rows = row = None

__all__ = ["multiplying", "set_num_threads", "swiglu_of", "widening"]

PACKAGE = "hetsched.cpu_kernels.packed"
ONE = np.float32(1)


@intrinsic
def _floats_at(_context, _address):
    """An address as a pointer to fp32."""

    def build(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), build


def _bounds(count, part, parts):
    """Rows of one part."""
    return count * part // parts // 4 * 4, count if part + 1 == parts else count * (part + 1) // parts // 4 * 4


def _rows(matrix, x, y, first, last):
    """Output columns `first` to `last` for all tokens."""
    if x.shape[0] < 3:
        few(matrix, x, y, first, last)
    else:
        many(matrix, x, y, first, last)


def _few(matrix, x, y, first, last):
    """One or two tokens: four rows at a time, a quarter of the range apart."""
    blocks, scales, wide, scale_wide = matrix
    tokens, columns, at, stride = x.shape[0], x.shape[1], x.ctypes.data, x.strides[0]
    apart = (last - first) // 4
    for a in range(first, first + apart):
        b, c, d = a + apart, a + 2 * apart, a + 3 * apart
        rows_4 = (blocks + a * wide, blocks + b * wide, blocks + c * wide, blocks + d * wide)
        scales_4 = (
            scales + a // share * scale_wide,
            scales + b // share * scale_wide,
            scales + c // share * scale_wide,
            scales + d // share * scale_wide,
        )
        if tokens == 1:
            y[0, a], y[0, b], y[0, c], y[0, d] = dot_41(rows_4, scales_4, at, stride, columns)
        else:
            sums = dot_42(rows_4, scales_4, at, stride, columns)
            y[0, a], y[1, a], y[0, b], y[1, b], y[0, c], y[1, c], y[0, d], y[1, d] = sums
    left_over(matrix, x, y, first + 4 * apart, last)


def _many(matrix, x, y, first, last):
    """Three tokens and more: two rows at a time, half of the range apart, four tokens at a time, the last ones with
    some before them once more."""
    blocks, scales, wide, scale_wide = matrix
    tokens, columns, stride = x.shape[0], x.shape[1], x.strides[0]
    apart = (last - first) // 2
    for a in range(first, first + apart):
        b = a + apart
        rows_2 = (blocks + a * wide, blocks + b * wide)
        scales_2 = (scales + a // share * scale_wide, scales + b // share * scale_wide)
        if tokens == 3:
            sums = dot_23(rows_2, scales_2, x.ctypes.data, stride, columns)
            y[0, a], y[1, a], y[2, a], y[0, b], y[1, b], y[2, b] = sums
        else:
            for begin in range(0, tokens, 4):
                t = min(begin, tokens - 4)
                s = dot_24(rows_2, scales_2, x.ctypes.data + t * stride, stride, columns)
                y[t, a], y[t + 1, a], y[t + 2, a], y[t + 3, a] = s[0], s[1], s[2], s[3]
                y[t, b], y[t + 1, b], y[t + 2, b], y[t + 3, b] = s[4], s[5], s[6], s[7]
    left_over(matrix, x, y, first + 2 * apart, last)


def _left_over(matrix, x, y, first, last):
    """Row by row, token by token."""
    blocks, scales, wide, scale_wide = matrix
    for r in range(first, last):
        row, scale = blocks + r * wide, scales + r // share * scale_wide
        for t in range(x.shape[0]):
            at = x.ctypes.data + t * x.strides[0]
            y[t, r] = dot_11((row,), (scale,), at, x.strides[0], x.shape[1])[0]


def _silu(gate, up, alpha, limit):
    """Gate times its sigmoid, times up."""
    return gate / (ONE + np.exp(-gate)) * up


def _clamped(gate, up, alpha, limit):
    """gpt-oss's: both kept within a limit, the gate only from above; up plus one."""
    gate, up = min(gate, limit), max(min(up, limit), -limit)
    return (up + ONE) * (gate / (ONE + np.exp(-alpha * gate)))


def _add_bias(address, y, first, last):
    """Add numbers of an fp32 row at an address to columns of every row; 0: nothing."""
    if address:
        bias = carray(floats_at(address), last)
        for t in range(y.shape[0]):
            for i in range(first, last):
                y[t, i] += bias[i]


def _inner(place, bytes_6, ends, x, h, u, z, put, alpha, limit, first, last):
    """Columns `first` to `last` of activation(gate(x), up(x)), each expert on its own rows; into z by `put`."""
    for i in range(place.shape[0]):
        a, b, p = ends[i], ends[i + 1], place[i]
        up_rows((p[0], p[1], bytes_6[0], bytes_6[1]), x[a:b], h[a:b], first, last)
        up_rows((p[2], p[3], bytes_6[2], bytes_6[3]), x[a:b], u[a:b], first, last)
        add_bias(p[6], h[a:b], first, last)
        add_bias(p[7], u[a:b], first, last)
        for t in range(a, b):
            for k in range(first, last):
                z[t, put[k]] = activation(h[t, k], u[t, k], alpha, limit)


def _outer(place, bytes_6, ends, z, y, first, last):
    """Columns `first` to `last` of down(z)."""
    for i in range(place.shape[0]):
        a, b, p = ends[i], ends[i + 1], place[i]
        down_rows((p[4], p[5], bytes_6[4], bytes_6[5]), z[a:b], y[a:b], first, last)
        add_bias(p[8], y[a:b], first, last)


def _swiglu(stamp):
    def swiglu(place, bytes_6, ends, x, h, u, z, put, y, alpha, limit, parts):
        """y [S, H] of several experts. `parts` row ranges, one a thread.

        `place` int64 [N, 9]: addresses of blocks and scales of gate, up and down, then of their biases. Expert i has
        the rows of x from ends[i] to ends[i + 1]. `h`, `u`, `z` [S, F] are scratch; column k of gate goes to put[k].
        """
        assert stamp >= 0
        for p in prange(parts):
            first, last = bounds(h.shape[1], p, parts)
            inner(place, bytes_6, ends, x, h, u, z, put, alpha, limit, first, last)
        for p in prange(parts):
            first, last = bounds(y.shape[1], p, parts)
            outer(place, bytes_6, ends, z, y, first, last)

    return swiglu


def _multiply(stamp):
    def multiply(blocks, scales, wide, scale_wide, x, y, parts):
        """y [T, N] = x times the transposed matrix."""
        assert stamp >= 0
        for p in prange(parts):
            first, last = bounds(y.shape[1], p, parts)
            rows((blocks, scales, wide, scale_wide), x, y, first, last)

    return multiply


def _widen(stamp):
    def widen(blocks, scales, wide, scale_wide, begin, out, parts):
        """Rows of the matrix from `begin` on as fp32 into out [N, K]."""
        assert stamp >= 0
        for p in prange(parts):
            for r in range(out.shape[0] * p // parts, out.shape[0] * (p + 1) // parts):
                at = begin + r
                row(blocks + at * wide, scales + at // share * scale_wide, out[r].ctypes.data, out.shape[1])

    return widen


def _stamp():
    """Of all sources that a kernel is made of."""
    return source_stamp(
        PACKAGE, *(f"{PACKAGE}.{name}" for name in ("lanes", "steps", "k_blocks", "unpackers", "dots", "loops"))
    )


def _named(unpacker, features):
    return "+".join([unpacker.name, *sorted(features)])


@cache
def _rows_of(unpacker, features):
    name, share = _named(unpacker, features), unpacker.rows_a_scale
    dots = {f"dot_{r}{t}": dot_of(unpacker, r, t, features) for r, t in ((1, 1), (4, 1), (4, 2), (2, 3), (2, 4))}
    left_over = bound(name, _left_over, dot_11=dots["dot_11"], share=share)
    few_dots = {"dot_41": dots["dot_41"], "dot_42": dots["dot_42"]}
    few = bound(name, _few, left_over=left_over, share=share, **few_dots)
    many_dots = {"dot_23": dots["dot_23"], "dot_24": dots["dot_24"]}
    many = bound(name, _many, left_over=left_over, share=share, **many_dots)
    return bound(name, _rows, few=few, many=many)


@cache
def multiplying(unpacker, features):
    """The kernel of one product."""
    bounds = bound("", _bounds)
    return threaded(_named(unpacker, features), _multiply, _stamp(), rows=_rows_of(unpacker, features), bounds=bounds)


@cache
def widening(unpacker, features):
    """The kernel that unpacks rows."""
    row = wide_of(unpacker, features)
    return threaded(_named(unpacker, features), _widen, _stamp(), row=row, share=unpacker.rows_a_scale)


@cache
def swiglu_of(inner_unpacker, outer_unpacker, clamped, features):
    """The kernel of whole experts, whose gate and up are of one format, down of another."""
    kind = "clamped" if clamped else "silu"
    pair = "-".join([_named(inner_unpacker, features), outer_unpacker.name, kind])
    activation = bound("", _clamped if clamped else _silu)
    add_bias = bound("", _add_bias, floats_at=_floats_at)
    up_rows, down_rows = _rows_of(inner_unpacker, features), _rows_of(outer_unpacker, features)
    inner = bound(pair, _inner, up_rows=up_rows, add_bias=add_bias, activation=activation)
    outer = bound(pair, _outer, down_rows=down_rows, add_bias=add_bias)
    return threaded(pair, _swiglu, _stamp(), inner=inner, outer=outer, bounds=bound("", _bounds))
