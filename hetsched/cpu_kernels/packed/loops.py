# mypy: ignore-errors
# Numba compiles these functions from their own subset of Python; annotations would say nothing to it.
"""What reads a format: loops over rows and tokens around the products of `dots`. Imports numba.

Each is compiled once, for itself, and called by address (see `stages`). Rows are taken four at a time, a quarter of the
range apart, so that as many streams run through memory; see numba_loops. Names: x records of input, y rows of output.
Shapes: T tokens, N output columns.
"""

from functools import cache
from typing import TYPE_CHECKING

from numba import carray

from ...jit import bound, source_stamp
from ...jit.by_address import address_of, floats_at, specialised_by_name, words_at
from .dots import dot_of, wide_of

if TYPE_CHECKING:  # names that jit.bound and jit.threaded bind below
    dot_41 = dot_42 = dot_24 = share = row = item = tokens_of = None

PACKAGE = "hetsched.cpu_kernels.packed"
SOURCES = ("lanes", "steps", "k_blocks", "unpackers", "whole_steps", "dots", "loops")
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
        """Rows `first` to `last` of a matrix as numbers of `item` bytes, the first to `out`."""
        assert stamp >= 0
        for r in range(first, last):
            row(blocks + r * wide, scales + r // share * scale_wide, out + item * (r - first) * columns, columns)
        return 0

    return widen_rows


@cache
def _stamp():
    """Of all sources that a kernel is made of."""
    return source_stamp("hetsched.jit.by_address", PACKAGE, *(f"{PACKAGE}.{name}" for name in SOURCES))


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
def widening(unpacker, features, half=False):
    """The address of what unpacks rows of a format, to fp32 or bf16."""
    name, row = f"{_named(unpacker, features)}{' half' * half}", wide_of(unpacker, features, half)
    given = {"row": row, "share": unpacker.rows_a_scale, "item": 2 if half else 4}
    return address_of(specialised_by_name(name, _widen_rows, _stamp(), WIDE, **given))
