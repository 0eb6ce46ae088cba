# mypy: ignore-errors
# Numba compiles these functions from their own subset of Python; annotations would say nothing to it.
"""The loops of the fused bf16 kernel. Imports numba: only numba_kernels.py imports this module.

Two rows by four tokens at a time: eight accumulators, two widened weights and one input fill AVX2's sixteen registers.
Names: w rows of weights, x rows of input; a, b sums of the first and second row.
"""

import numpy as np
from llvmlite import ir
from numba import njit, prange, set_num_threads, types
from numba.extending import intrinsic

__all__ = ["linear", "set_num_threads", "swiglu"]

# Sums may be reordered for vector lanes, and multiply-adds fused; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "nsz", "arcp"}
ZERO, ONE = np.float32(0), np.float32(1)


@intrinsic
def widen(_context, _bits):
    """bf16 bits to float32: the upper half of the word."""

    def build(_target, builder, _signature, arguments):
        word = builder.zext(arguments[0], ir.IntType(32))
        return builder.bitcast(builder.shl(word, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return types.float32(types.uint16), build


@njit(nogil=True, fastmath=FAST, cache=True)
def dot(w, x):
    """One row, one token."""
    a = ZERO
    for k in range(x.shape[0]):
        a += widen(w[k]) * x[k]
    return a


@njit(nogil=True, fastmath=FAST, cache=True)
def dot_two_tokens(w, x0, x1):
    """One row, two tokens."""
    a0 = a1 = ZERO
    for k in range(x0.shape[0]):
        v = widen(w[k])
        a0 += v * x0[k]
        a1 += v * x1[k]
    return a0, a1


@njit(nogil=True, fastmath=FAST, cache=True)
def dot_four_tokens(w0, w1, x0, x1, x2, x3):
    """Two rows, four tokens."""
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = ZERO
    for k in range(x0.shape[0]):
        v0 = widen(w0[k])
        v1 = widen(w1[k])
        a0 += v0 * x0[k]
        a1 += v0 * x1[k]
        a2 += v0 * x2[k]
        a3 += v0 * x3[k]
        b0 += v1 * x0[k]
        b1 += v1 * x1[k]
        b2 += v1 * x2[k]
        b3 += v1 * x3[k]
    return a0, a1, a2, a3, b0, b1, b2, b3


@njit(nogil=True, fastmath=FAST, cache=True)
def few_tokens(w, x, y, row, start):
    """One row for the last tokens, fewer than four, from `start`."""
    t = start
    if t + 2 <= x.shape[0]:
        y[t, row], y[t + 1, row] = dot_two_tokens(w[row], x[t], x[t + 1])
        t += 2
    if t < x.shape[0]:
        y[t, row] = dot(w[row], x[t])


@njit(nogil=True, fastmath=FAST, cache=True)
def rows(w, x, y, first, last):
    """Output columns `first` to `last` for all tokens."""
    fours = x.shape[0] // 4 * 4
    paired = last // 2 * 2 if fours else first
    for r in range(first, paired, 2):
        for t in range(0, fours, 4):
            a0, a1, a2, a3, b0, b1, b2, b3 = dot_four_tokens(w[r], w[r + 1], x[t], x[t + 1], x[t + 2], x[t + 3])
            y[t, r], y[t + 1, r], y[t + 2, r], y[t + 3, r] = a0, a1, a2, a3
            y[t, r + 1], y[t + 1, r + 1], y[t + 2, r + 1], y[t + 3, r + 1] = b0, b1, b2, b3
        few_tokens(w, x, y, r, fours)
        few_tokens(w, x, y, r + 1, fours)
    for r in range(paired, last):
        for t in range(fours):
            y[t, r] = dot(w[r], x[t])
        few_tokens(w, x, y, r, fours)


@njit(nogil=True, cache=True)
def bounds(count, part, parts):
    """Rows of one part. Parts start at even rows, so that the pairs, and the sums, are the same for any number."""
    return count * part // parts // 2 * 2, count if part + 1 == parts else count * (part + 1) // parts // 2 * 2


@njit(nogil=True, fastmath=FAST, cache=True)
def activate(h, u, first, last):
    """silu(h) * u, in place over h."""
    for t in range(h.shape[0]):
        for i in range(first, last):
            h[t, i] *= u[t, i] / (ONE + np.exp(-h[t, i]))


@njit(parallel=True, nogil=True, fastmath=FAST, cache=True)
def swiglu(gate, up, down, x, h, u, y, parts):
    """y [T, H] = down(silu(gate(x)) * up(x)). `h`, `u` [T, F] are scratch. `parts` row ranges, one a thread."""
    for p in prange(parts):
        first, last = bounds(gate.shape[0], p, parts)
        rows(gate, x, h, first, last)
        rows(up, x, u, first, last)
        activate(h, u, first, last)
    for p in prange(parts):
        first, last = bounds(down.shape[0], p, parts)
        rows(down, h, y, first, last)


@njit(parallel=True, nogil=True, fastmath=FAST, cache=True)
def linear(w, x, y, parts):
    """y = x times the transposed w."""
    for p in prange(parts):
        first, last = bounds(w.shape[0], p, parts)
        rows(w, x, y, first, last)
