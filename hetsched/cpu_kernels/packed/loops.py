# mypy: ignore-errors
# Numba compiles these functions from their own subset of Python; annotations would say nothing to it.
"""Loops over rows, tokens and experts around the products of `dots`. Imports numba: only kernels.py imports this.

What reads a format is compiled once and called by address; loops over experts and threads are the same for all.
Rows are taken four at a time, a quarter of the range apart, so that as many streams run through memory; see
numba_loops. Names: x records of input, y rows of output, h and u those of gate and up; `p` how to call what reads a
matrix: its address, then the matrix's (blocks, scales, bytes from row to row of both).
Shapes: T tokens, S tokens sorted by expert, N experts or output columns, K input columns, H hidden, F ffn.
"""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numba import carray, prange, set_num_threads

from ...jit import bound, source_stamp, specialised_by_name, threaded
from ...jit.by_address import address_of, called_at, floats_at, words_at
from .dots import dot_of, wide_of

if TYPE_CHECKING:  # names that jit.bound and jit.threaded bind below
    dot_41 = dot_42 = dot_24 = share = row = None
    arrange = activate = add_bias = inner = outer = bounds = product = tokens_of = None

__all__ = ["multiplying", "reading", "set_num_threads", "swiglu_of_several", "widening"]

PACKAGE = "hetsched.cpu_kernels.packed"
SOURCES = ("lanes", "steps", "k_blocks", "unpackers", "whole_steps", "dots", "loops")
ZERO, ONE, MOST = np.float32(0), np.float32(1), np.float32(127)
UNIT = 32  # columns: threads share out whole ones, since so many are rounded together
READ = f"int64({', '.join(['int64'] * 13)})"
WIDE = f"int64({', '.join(['int64'] * 8)})"


def _tokens_of(blocks, scales, x, columns, y, wide, at, a, b, c, d):
    """Four rows for all tokens: four at a time, the last three with one before them once more, two, one."""
    scales_4, rows_4, tokens = scales, blocks, at.shape[0]
    t = 0
    while tokens - t >= 3:
        first = min(t, max(tokens - 4, 0)) if tokens - t == 3 else t
        last = min(first + 3, tokens - 1)
        x_4 = (x + at[first] * wide, x + at[first + 1] * wide, x + at[first + 2] * wide, x + at[last] * wide)
        s = dot_24((rows_4[0], rows_4[1]), (scales_4[0], scales_4[1]), x_4, columns)
        y[first, a], y[first + 1, a], y[first + 2, a], y[last, a] = s[0], s[1], s[2], s[3]
        y[first, b], y[first + 1, b], y[first + 2, b], y[last, b] = s[4], s[5], s[6], s[7]
        s = dot_24((rows_4[2], rows_4[3]), (scales_4[2], scales_4[3]), x_4, columns)
        y[first, c], y[first + 1, c], y[first + 2, c], y[last, c] = s[0], s[1], s[2], s[3]
        y[first, d], y[first + 1, d], y[first + 2, d], y[last, d] = s[4], s[5], s[6], s[7]
        t = last + 1
    if tokens - t == 2:
        sums = dot_42(rows_4, scales_4, (x + at[t] * wide, x + at[t + 1] * wide), columns)
        y[t, a], y[t + 1, a], y[t, b], y[t + 1, b], y[t, c], y[t + 1, c], y[t, d], y[t + 1, d] = sums
    elif tokens - t == 1:
        y[t, a], y[t, b], y[t, c], y[t, d] = dot_41(rows_4, scales_4, (x + at[t] * wide,), columns)


def _read(stamp):
    def read(blocks, scales, wide, scale_wide, x, record_bytes, at, tokens, columns, y, y_wide, first, last):
        """Output columns `first` to `last` of y [.., y_wide] for `tokens` records of x, those that `at` names."""
        assert stamp >= 0
        at_T, y_TN = carray(words_at(at), tokens), carray(floats_at(y), (tokens, y_wide))
        apart = (last - first + 3) // 4
        for a in range(first, first + apart):
            b, c, d = min(a + apart, last - 1), min(a + 2 * apart, last - 1), min(a + 3 * apart, last - 1)
            rows_4 = (blocks + a * wide, blocks + b * wide, blocks + c * wide, blocks + d * wide)
            scales_4 = (
                scales + a // share * scale_wide,
                scales + b // share * scale_wide,
                scales + c // share * scale_wide,
                scales + d // share * scale_wide,
            )
            tokens_of(rows_4, scales_4, x, columns, y_TN, record_bytes, at_T, a, b, c, d)
        return 0

    return read


def _widen_rows(stamp):
    def widen_rows(blocks, scales, wide, scale_wide, first, last, columns, out):
        """Rows `first` to `last` of a matrix as fp32, the first to `out`."""
        assert stamp >= 0
        for r in range(first, last):
            row(blocks + r * wide, scales + r // share * scale_wide, out + 4 * (r - first) * columns, columns)
        return 0

    return widen_rows


def _bounds(count, part, parts):
    """Rows of one part."""
    units = (count + UNIT - 1) // UNIT
    return min(units * part // parts * UNIT, count), min(units * (part + 1) // parts * UNIT, count)


def _product(p, x, at, tokens, columns, y, row, wide, first, last):
    """Call what reads a matrix: its columns `first` to `last` for these rows of x, into y from `row` on."""
    if first < last:
        out = y.ctypes.data + row * y.strides[0]
        given = (p[1], p[2], p[3], p[4], x.ctypes.data, x.strides[0], at.ctypes.data, tokens)
        called_at(p[0], given + (columns, out, wide, first, last))


def _arrange(values, first, last, put, aside, rounded, factor, record):
    """Columns `first` to `last` of one token into its record; `first` is a multiple of UNIT."""
    if not rounded:
        floats = record.view(np.float32)
        for k in range(first, last):
            floats[put[k]] = values[k]
        return
    small, floats, words = record.view(np.int8), record.view(np.float32), record.view(np.int32)
    for begin in range(first, last, UNIT):
        end, most, total = min(begin + UNIT, last), ZERO, ZERO
        for k in range(begin, end):
            most = max(most, abs(values[k]))
            total += values[k] * ZERO  # what is no finite number stays none
        inverse = MOST / most if most > ZERO else ZERO
        scale = most / MOST + total
        for k in range(begin, end):
            number = np.int32(np.rint(values[k] * inverse))
            small[put[k]] = number
            floats[aside[k]] = scale
            words[aside[k] + 16] += number * factor


def _activate(h, u, first, last, clamped, alpha, limit):
    """Columns `first` to `last` of one token's gate, with its up: silu, or gpt-oss's, both kept within a limit."""
    for k in range(first, last):
        gate, up = h[k], u[k]
        if clamped:
            gate, up = min(gate, limit), max(min(up, limit), -limit)
            h[k] = (up + ONE) * (gate / (ONE + np.exp(-alpha * gate)))
        else:
            h[k] = gate / (ONE + np.exp(-gate)) * up


def _add_bias(address, y, first, last):
    """Add numbers of an fp32 row at an address to columns of every row; 0: nothing."""
    if address:
        bias = carray(floats_at(address), last)
        for t in range(y.shape[0]):
            for i in range(first, last):
                y[t, i] += bias[i]


def _inner(place, ends, at, x, h, u, z, columns, put, aside, how, alpha, limit, first, last):
    """Columns `first` to `last` of activation(gate(x), up(x)), each expert on its own rows, into records z."""
    for i in range(place.shape[0]):
        a, b, p = ends[i], ends[i + 1], place[i]
        product(p[:5], x, at[a:], b - a, columns, h, a, h.shape[1], first, last)
        product(p[5:10], x, at[a:], b - a, columns, u, a, h.shape[1], first, last)
        add_bias(p[15], h[a:b], first, last)
        add_bias(p[16], u[a:b], first, last)
        for s in range(a, b):
            activate(h[s], u[s], first, last, how[0], alpha, limit)
            arrange(h[s], first, last, put, aside, how[1], how[2], z[s])


def _outer(place, ends, in_turn, z, y, columns, first, last):
    """Columns `first` to `last` of down(z)."""
    for i in range(place.shape[0]):
        a, b, p = ends[i], ends[i + 1], place[i]
        product(p[10:15], z, in_turn[a:], b - a, columns, y, a, y.shape[1], first, last)
        add_bias(p[17], y[a:b], first, last)


def _swiglu(stamp):
    def swiglu(place, ends, at, in_turn, input, x, put_x, aside_x, how_x, h, u, z, put, aside, how, y, alpha, limit, n):
        """y [S, H] of several experts, in `n` row ranges, one a thread.

        `place` int64 [N, 18]: how to read gate, up and down, then addresses of their biases. Expert i has the rows of
        x that `at` names from ends[i] to ends[i + 1]. `input` [T, H] goes into records x [T, ..]; `h`, `u` [S, F]
        and records z [S, ..] are scratch. `how`: clamped or silu, rounded or not, factor; `how_x` alike.
        """
        assert stamp >= 0
        for t in range(x.shape[0]):
            arrange(input[t], 0, input.shape[1], put_x, aside_x, how_x[1], how_x[2], x[t])
        for part in prange(n):
            first, last = bounds(h.shape[1], part, n)
            inner(place, ends, at, x, h, u, z, input.shape[1], put, aside, how, alpha, limit, first, last)
        for part in prange(n):
            first, last = bounds(y.shape[1], part, n)
            outer(place, ends, in_turn, z, y, h.shape[1], first, last)

    return swiglu


def _multiply(stamp):
    def multiply(p, at, input, x, put, aside, how, y, n):
        """y [T, N] = x times the transposed matrix, in `n` row ranges; the rest as in `swiglu`."""
        assert stamp >= 0
        for t in range(x.shape[0]):
            arrange(input[t], 0, input.shape[1], put, aside, how[1], how[2], x[t])
        for part in prange(n):
            first, last = bounds(y.shape[1], part, n)
            product(p, x, at, x.shape[0], input.shape[1], y, 0, y.shape[1], first, last)

    return multiply


def _widen(stamp):
    def widen(p, begin, out, n):
        """Rows of the matrix from `begin` on as fp32 into out [N, K]."""
        assert stamp >= 0
        for part in prange(n):
            first, last = out.shape[0] * part // n, out.shape[0] * (part + 1) // n
            at = out.ctypes.data + first * out.strides[0]
            called_at(p[0], (p[1], p[2], p[3], p[4], begin + first, begin + last, out.shape[1], at))

    return widen


@cache
def _stamp():
    """Of all sources that a kernel is made of."""
    return source_stamp(PACKAGE, *(f"{PACKAGE}.{name}" for name in SOURCES))


def _named(unpacker, features):
    return "+".join([unpacker.name, *(["rounded"] if unpacker.rounded else []), *sorted(features)])


@cache
def reading(unpacker, features):
    """The address of what multiplies rows of a format."""
    name = _named(unpacker, features)
    dots = {f"dot_{r}{t}": dot_of(unpacker, r, t, features) for r, t in ((4, 1), (4, 2), (2, 4))}
    tokens_of = bound(name, _tokens_of, **dots)
    made = specialised_by_name(name, _read, _stamp(), READ, tokens_of=tokens_of, share=unpacker.rows_a_scale)
    return address_of(made)


@cache
def widening(unpacker, features):
    """The address of what unpacks rows of a format."""
    name, row = _named(unpacker, features), wide_of(unpacker, features)
    return address_of(specialised_by_name(name, _widen_rows, _stamp(), WIDE, row=row, share=unpacker.rows_a_scale))


@cache
def _common():
    bounds, arrange = bound("", _bounds), bound("", _arrange)
    return {"bounds": bounds, "arrange": arrange, "product": bound("", _product)}


@cache
def multiplying():
    """The kernel of one product."""
    return threaded("", _multiply, _stamp(), **_common())


@cache
def unpacking():
    """The kernel that unpacks rows."""
    return threaded("", _widen, _stamp())


@cache
def swiglu_of_several():
    """The kernel of whole experts."""
    common = _common()
    called = {"product": common["product"], "add_bias": bound("", _add_bias)}
    inner = bound("", _inner, **called, arrange=common["arrange"], activate=bound("", _activate))
    outer = bound("", _outer, **called)
    shared = {"bounds": common["bounds"], "arrange": common["arrange"]}
    return threaded("", _swiglu, _stamp(), inner=inner, outer=outer, **shared)
