# mypy: ignore-errors
# Numba compiles these functions from their own subset of Python; annotations would say nothing to it.
"""What threads share out: products and whole experts, stage after stage, the same for all formats. Imports numba.

A stage is a function of the address of int64 words, which say what it works on, and of which part of how many it is to
do. Words of a product and of experts are in `kernels`. Names: x, z records of activations, h and u rows of gate and
up, y rows of output; `how` to read a matrix is five words: the address of what reads its format, of its blocks and
scales, and bytes from row to row of both. Shapes: T tokens, S tokens sorted by expert, N experts or output columns,
K input columns, H hidden, F ffn.
"""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numba import carray, prange, set_num_threads

from ...jit import bound, source_stamp, threaded
from ...jit.by_address import address_of, bytes_at, called_at, floats_at, specialised_by_name, words_at

if TYPE_CHECKING:  # names that jit.bound and jit.specialised bind below
    arrange = activate = add_bias = bounds = product = None

__all__ = ["run", "set_num_threads", "stage"]

SOURCES = ("hetsched.cpu_kernels.packed.stages", "hetsched.jit.by_address")
STAGE = "int64(int64, int64, int64)"
ZERO, ONE, MOST = np.float32(0), np.float32(1), np.float32(127)
NEAREST = np.float32(3 << 22)  # added and taken off: rounds to the nearest whole number, ties to even
AFTER, PLACE = 8 * 25, 18  # bytes of the words that every call has; words of an expert
UNIT = 32  # columns: threads share out whole ones, since so many are rounded together


def _bounds(count, part, parts):
    """Columns of one part."""
    units = (count + UNIT - 1) // UNIT
    return min(units * part // parts * UNIT, count), min(units * (part + 1) // parts * UNIT, count)


def _product(how, x, record_bytes, at, tokens, columns, y, wide, first, last):
    """Columns `first` to `last` of y [.., wide] for so many records, those that the words at `at` name."""
    if first < last and tokens:
        matrix = (how[1], how[2], how[3], how[4])
        called_at(how[0], (*matrix, x, record_bytes, at, tokens, columns, y, wide, first, last))


def _arrange(values, first, last, how, record):
    """Columns `first` to `last` of one token into its record; `first` is a multiple of UNIT.

    `how`: addresses of where columns, scales and totals go, and whether activations are rounded.
    """
    floats, places, totals = (
        carray(floats_at(record), 1),
        carray(words_at(how[0]), last),
        carray(words_at(how[2]), last),
    )
    if not how[3]:
        for k in range(first, last):
            floats[places[k]] = values[k]
        for begin in range(first, last, UNIT):
            if totals[begin // UNIT] >= 0:
                total = ZERO
                for k in range(begin, min(begin + UNIT, last)):
                    total += values[k]
                floats[totals[begin // UNIT]] = -total
        return
    small, scales = carray(bytes_at(record), 1), carray(words_at(how[1]), last)
    for begin in range(first, last, UNIT):
        end, most, nothing, total = min(begin + UNIT, last), ZERO, ZERO, ZERO
        for k in range(begin, end):
            most = max(most, abs(values[k]))
            nothing += values[k] * ZERO  # what is no finite number stays none
        inverse = MOST / most if most > ZERO else ZERO
        scale = most / MOST + nothing
        for k in range(begin, end):
            number = values[k] * inverse + NEAREST - NEAREST
            small[places[k]] = np.int32(number)
            floats[scales[k]] = scale
            total += number
        if totals[begin // UNIT] >= 0:
            floats[totals[begin // UNIT]] = -total * scale


def _activate(gate, up, first, last, limits):
    """Columns `first` to `last` of one token's gate, with its up: silu, or gpt-oss's, both kept within a limit."""
    alpha, limit = limits[0], limits[1]
    if limit > ZERO:
        for k in range(first, last):
            g, u = min(gate[k], limit), max(min(up[k], limit), -limit)
            gate[k] = (u + ONE) * (g / (ONE + np.exp(-alpha * g)))
    else:
        for k in range(first, last):
            gate[k] = gate[k] / (ONE + np.exp(-gate[k])) * up[k]


def _add_bias(address, y, first, last):
    """Add numbers of an fp32 row at an address to columns of every row; 0: nothing."""
    if address:
        bias = carray(floats_at(address), last)
        for t in range(y.shape[0]):
            for i in range(first, last):
                y[t, i] += bias[i]


def _arranging(stamp):
    def arranging(words, part, parts):
        """Input [T, K] into records x. Words 0 to 8: input, T, K, x and bytes of a record, how to arrange it (4)."""
        assert stamp >= 0
        w = carray(words_at(words), 9)
        input_TK = carray(floats_at(w[0]), (w[1], w[2]))
        first, last = bounds(w[2], part, parts)
        for t in range(w[1]):
            arrange(input_TK[t], first, last, w[5:9], w[3] + t * w[4])
        return 0

    return arranging


def _multiplying(stamp):
    def multiplying(words, part, parts):
        """y [T, N] of one matrix. Words from 9 on: how to read it, rows in turn, y and N."""
        assert stamp >= 0
        w = carray(words_at(words), 17)
        first, last = bounds(w[16], part, parts)
        product(w[9:14], w[3], w[4], w[14], w[1], w[2], w[15], w[16], first, last)
        return 0

    return multiplying


def _entering(stamp):
    def entering(words, part, parts):
        """Columns of activation(gate(x), up(x)), each expert on its own rows, into records z.

        Words from 9 on: N, and the address of 18 words of each expert there is (how to read gate, up and down, then
        addresses of their biases); of the rows' tokens, and of rows in turn; of h and u, F, limits; z as x; y and H;
        which experts, where each one's rows begin, and where the last one's end.
        """
        assert stamp >= 0
        w = carray(words_at(words), 25)
        active, ends = carray(words_at(words + AFTER), w[9]), carray(words_at(words + AFTER + 8 * w[9]), w[9] + 1)
        size, ffn, limits = ends[w[9]], w[15], carray(floats_at(w[16]), 2)
        h, u = carray(floats_at(w[13]), (size, ffn)), carray(floats_at(w[14]), (size, ffn))
        first, last = bounds(ffn, part, parts)
        for i in range(w[9]):
            a, b, p = ends[i], ends[i + 1], carray(words_at(w[10] + 8 * PLACE * active[i]), PLACE)
            at, to = w[11] + 8 * a, 4 * a * ffn
            product(p[:5], w[3], w[4], at, b - a, w[2], w[13] + to, ffn, first, last)
            product(p[5:10], w[3], w[4], at, b - a, w[2], w[14] + to, ffn, first, last)
            add_bias(p[15], h[a:b], first, last)
            add_bias(p[16], u[a:b], first, last)
            for s in range(a, b):
                activate(h[s], u[s], first, last, limits)
                arrange(h[s], first, last, w[19:23], w[17] + s * w[18])
        return 0

    return entering


def _leaving(stamp):
    def leaving(words, part, parts):
        """Columns of y = down(z). Words as in `entering`."""
        assert stamp >= 0
        w = carray(words_at(words), 25)
        active, ends = carray(words_at(words + AFTER), w[9]), carray(words_at(words + AFTER + 8 * w[9]), w[9] + 1)
        y = carray(floats_at(w[23]), (ends[w[9]], w[24]))
        first, last = bounds(w[24], part, parts)
        for i in range(w[9]):
            a, b, p = ends[i], ends[i + 1], carray(words_at(w[10] + 8 * PLACE * active[i]), PLACE)
            at, to = w[12] + 8 * a, w[23] + 4 * a * w[24]
            product(p[10:15], w[17], w[18], at, b - a, w[15], to, w[24], first, last)
            add_bias(p[17], y[a:b], first, last)
        return 0

    return leaving


def _unpacking(stamp):
    def unpacking(words, part, parts):
        """Rows of a matrix as numbers [N, K]. Words: how to unpack it, the first row, N, K, to where, bytes of one."""
        assert stamp >= 0
        w = carray(words_at(words), 10)
        first, last = w[6] * part // parts, w[6] * (part + 1) // parts
        matrix = (w[1], w[2], w[3], w[4])
        called_at(w[0], (*matrix, w[5] + first, w[5] + last, w[7], w[8] + w[9] * first * w[7]))
        return 0

    return unpacking


def _run(stamp):
    def run(before, stages, words, parts):
        """Stages at these addresses one after the other, their parts at once; `before` in this thread, 0 for none."""
        assert stamp >= 0
        if before:
            called_at(before, (words, 0, 1))
        for each in range(stages.shape[0]):
            stage = stages[each]
            for part in prange(parts):
                called_at(stage, (words, part, parts))

    return run


@cache
def stage(name):
    """The address of a stage by name."""
    template, parts = {
        "arranging": (_arranging, ("bounds", "arrange")),
        "multiplying": (_multiplying, ("bounds", "product")),
        "entering": (_entering, ("bounds", "product", "add_bias", "activate", "arrange")),
        "leaving": (_leaving, ("bounds", "product", "add_bias")),
        "unpacking": (_unpacking, ()),
    }[name]
    made = {part: bound("", globals()[f"_{part}"]) for part in parts}
    return address_of(specialised_by_name("", template, source_stamp(*SOURCES), STAGE, **made))


@cache
def run():
    """The kernel that runs stages."""
    return threaded("", _run, source_stamp(*SOURCES))
