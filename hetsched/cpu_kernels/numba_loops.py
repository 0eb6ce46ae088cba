# mypy: ignore-errors
# Numba compiles these functions from their own subset of Python; annotations would say nothing to it.
"""The loops of the fused bf16 kernel. Imports numba: only numba_kernels.py imports this module.

Rows are taken two or four at a time from far apart, so that as many streams run through memory: one stream, or rows
next to each other, keep the prefetchers from the memory's full rate. Eight sums and the widened weights fit AVX2's
sixteen registers. Names: w rows of weights, x rows of input, y rows of output, a to d rows and the sums over them.
"""

import numpy as np
from llvmlite import ir
from numba import carray, prange, set_num_threads, types
from numba.extending import intrinsic

from ..jit.kept import kept_njit

__all__ = ["linear", "set_num_threads", "swiglu", "swiglu_alone"]

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


@intrinsic
def pointer(_context, _address):
    """An address as a pointer to bf16 bits."""

    def build(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint16)(types.int64), build


@kept_njit(nogil=True)
def matrix(address, num_rows, num_columns):
    """The weights [num_rows, num_columns] at an address."""
    return carray(pointer(address), (num_rows, num_columns))


@kept_njit(nogil=True, fastmath=FAST)
def one_row(w, x):
    """One row, one token."""
    a = ZERO
    for k in range(x.shape[0]):
        a += widen(w[k]) * x[k]
    return a


@kept_njit(nogil=True, fastmath=FAST)
def four_rows(wa, wb, wc, wd, x):
    """Four rows, one token."""
    a = b = c = d = ZERO
    for k in range(x.shape[0]):
        v = x[k]
        a += widen(wa[k]) * v
        b += widen(wb[k]) * v
        c += widen(wc[k]) * v
        d += widen(wd[k]) * v
    return a, b, c, d


@kept_njit(nogil=True, fastmath=FAST)
def four_rows_two_tokens(wa, wb, wc, wd, x0, x1):
    """Four rows, two tokens."""
    a0 = b0 = c0 = d0 = a1 = b1 = c1 = d1 = ZERO
    for k in range(x0.shape[0]):
        va, vb, vc, vd = widen(wa[k]), widen(wb[k]), widen(wc[k]), widen(wd[k])
        a0 += va * x0[k]
        b0 += vb * x0[k]
        c0 += vc * x0[k]
        d0 += vd * x0[k]
        a1 += va * x1[k]
        b1 += vb * x1[k]
        c1 += vc * x1[k]
        d1 += vd * x1[k]
    return a0, b0, c0, d0, a1, b1, c1, d1


@kept_njit(nogil=True, fastmath=FAST)
def two_rows_four_tokens(wa, wb, x0, x1, x2, x3):
    """Two rows, four tokens."""
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = ZERO
    for k in range(x0.shape[0]):
        va, vb = widen(wa[k]), widen(wb[k])
        a0 += va * x0[k]
        a1 += va * x1[k]
        a2 += va * x2[k]
        a3 += va * x3[k]
        b0 += vb * x0[k]
        b1 += vb * x1[k]
        b2 += vb * x2[k]
        b3 += vb * x3[k]
    return a0, a1, a2, a3, b0, b1, b2, b3


@kept_njit(nogil=True, fastmath=FAST)
def two_rows_three_tokens(wa, wb, x0, x1, x2):
    """Two rows, three tokens."""
    a0 = a1 = a2 = b0 = b1 = b2 = ZERO
    for k in range(x0.shape[0]):
        va, vb = widen(wa[k]), widen(wb[k])
        a0 += va * x0[k]
        a1 += va * x1[k]
        a2 += va * x2[k]
        b0 += vb * x0[k]
        b1 += vb * x1[k]
        b2 += vb * x2[k]
    return a0, a1, a2, b0, b1, b2


@kept_njit(nogil=True, fastmath=FAST)
def two_rows_two_tokens(wa, wb, x0, x1):
    """Two rows, two tokens."""
    a0 = a1 = b0 = b1 = ZERO
    for k in range(x0.shape[0]):
        va, vb = widen(wa[k]), widen(wb[k])
        a0 += va * x0[k]
        a1 += va * x1[k]
        b0 += vb * x0[k]
        b1 += vb * x1[k]
    return a0, a1, b0, b1


@kept_njit(nogil=True, fastmath=FAST)
def rows_of_few(w, x, y, first, last):
    """One or two tokens: four rows at a time, a quarter of the range apart."""
    tokens, apart = x.shape[0], (last - first) // 4
    for a in range(first, first + apart):
        b, c, d = a + apart, a + 2 * apart, a + 3 * apart
        if tokens == 1:
            y[0, a], y[0, b], y[0, c], y[0, d] = four_rows(w[a], w[b], w[c], w[d], x[0])
        else:
            sums = four_rows_two_tokens(w[a], w[b], w[c], w[d], x[0], x[1])
            y[0, a], y[0, b], y[0, c], y[0, d], y[1, a], y[1, b], y[1, c], y[1, d] = sums
    for r in range(first + 4 * apart, last):
        for t in range(tokens):
            y[t, r] = one_row(w[r], x[t])


@kept_njit(nogil=True, fastmath=FAST)
def last_tokens(w, x, y, a, b, t):
    """Rows a and b for the last one to three tokens, from t on; nothing when there are none."""
    left = x.shape[0] - t
    if left == 1:
        y[t, a], y[t, b] = one_row(w[a], x[t]), one_row(w[b], x[t])
    elif left == 2:
        y[t, a], y[t + 1, a], y[t, b], y[t + 1, b] = two_rows_two_tokens(w[a], w[b], x[t], x[t + 1])
    elif left == 3:
        sums = two_rows_three_tokens(w[a], w[b], x[t], x[t + 1], x[t + 2])
        y[t, a], y[t + 1, a], y[t + 2, a], y[t, b], y[t + 1, b], y[t + 2, b] = sums


@kept_njit(nogil=True, fastmath=FAST)
def rows_of_many(w, x, y, first, last):
    """Three tokens and more: two rows at a time, half of the range apart, four tokens at a time."""
    fours, apart = x.shape[0] // 4 * 4, (last - first) // 2
    for a in range(first, first + apart):
        b = a + apart
        for t in range(0, fours, 4):
            sums = two_rows_four_tokens(w[a], w[b], x[t], x[t + 1], x[t + 2], x[t + 3])
            y[t, a], y[t + 1, a], y[t + 2, a], y[t + 3, a], y[t, b], y[t + 1, b], y[t + 2, b], y[t + 3, b] = sums
        last_tokens(w, x, y, a, b, fours)
    for r in range(first + 2 * apart, last):
        for t in range(x.shape[0]):
            y[t, r] = one_row(w[r], x[t])


@kept_njit(nogil=True)
def rows(w, x, y, first, last):
    """Output columns `first` to `last` for all tokens."""
    if x.shape[0] < 3:
        rows_of_few(w, x, y, first, last)
    else:
        rows_of_many(w, x, y, first, last)


@kept_njit(nogil=True)
def bounds(count, part, parts):
    """Rows of one part. Parts start at multiples of four, so that the same rows are left over for any number."""
    return count * part // parts // 4 * 4, count if part + 1 == parts else count * (part + 1) // parts // 4 * 4


@kept_njit(nogil=True, fastmath=FAST)
def activate(h, u, first, last):
    """silu(h) * u, in place over h."""
    for t in range(h.shape[0]):
        for i in range(first, last):
            h[t, i] *= u[t, i] / (ONE + np.exp(-h[t, i]))


@kept_njit(nogil=True, fastmath=FAST)
def inner(gate_up, ends, x, h, u, first, last):
    """Columns `first` to `last` of h = silu(gate(x)) * up(x), each expert on its own rows."""
    hidden, ffn = x.shape[1], h.shape[1]
    for i in range(gate_up.shape[0]):
        a, b = ends[i], ends[i + 1]
        w = matrix(gate_up[i], 2 * ffn, hidden)
        rows(w[:ffn], x[a:b], h[a:b], first, last)
        rows(w[ffn:], x[a:b], u[a:b], first, last)
        activate(h[a:b], u[a:b], first, last)


@kept_njit(nogil=True)
def outer(down, ends, h, y, first, last):
    """Columns `first` to `last` of y = down(h)."""
    hidden, ffn = y.shape[1], h.shape[1]
    for i in range(down.shape[0]):
        a, b = ends[i], ends[i + 1]
        rows(matrix(down[i], hidden, ffn), h[a:b], y[a:b], first, last)


@kept_njit(parallel=True, nogil=True)
def swiglu(gate_up, down, ends, x, h, u, y, parts):
    """y [S, H] = down(silu(gate(x)) * up(x)) for several experts. `parts` row ranges, one a thread.

    `gate_up`, `down` int64 [N]: addresses of each expert's matrices [2F, H] and [H, F]. Expert i has the rows of x from
    ends[i] to ends[i + 1]. `h`, `u` [S, F] are scratch.
    """
    for p in prange(parts):
        first, last = bounds(h.shape[1], p, parts)
        inner(gate_up, ends, x, h, u, first, last)
    for p in prange(parts):
        first, last = bounds(y.shape[1], p, parts)
        outer(down, ends, h, y, first, last)


@kept_njit(nogil=True)
def swiglu_alone(gate_up, down, ends, x, h, u, y):
    """The same in the calling thread, which need not wake others."""
    inner(gate_up, ends, x, h, u, 0, h.shape[1])
    outer(down, ends, h, y, 0, y.shape[1])


@kept_njit(parallel=True, nogil=True, fastmath=FAST)
def linear(w, x, y, parts):
    """y = x times the transposed w."""
    for p in prange(parts):
        first, last = bounds(w.shape[0], p, parts)
        rows(w, x, y, first, last)
