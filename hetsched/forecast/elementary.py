"""exp and log over vectors, in a form that LLVM compiles to vector instructions; numba calls libm number by number.

Accurate to a few units in the last place for finite arguments of ordinary size (|x| < 700 for exp, normal positive
numbers for log). Method: reduction by powers of two with their exponents as bits, then a polynomial: Taylor's for exp,
that of the inverse hyperbolic tangent for log (Muller, "Elementary functions", chapters 3 and 11).

Shapes: E experts.
"""

from __future__ import annotations

import numpy as np

from ..jit import compiled_lean
from ..types import FloatArray

LOG2_E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10  # ln 2 in two parts
WHOLE = 6755399441055744.0  # 1.5 * 2 ** 52: added to a small number, it leaves its nearest whole number in the low bits
EXPONENT = 4503599627370496.0  # 2 ** 52: its bits with a small whole number below are that number more
EXPONENT_BITS, MANTISSA_BITS, ONE_BITS = 0x4330000000000000, 0x000FFFFFFFFFFFFF, 0x3FF0000000000000


@compiled_lean
def exp(x_E: FloatArray, out_E: FloatArray, scratch_E: FloatArray) -> None:
    """out_E = e ** x_E; `x_E` and `out_E` may be one array."""
    for e in range(len(x_E)):
        shifted = min(max(x_E[e], -700.0), 700.0) * LOG2_E + WHOLE
        power = shifted - WHOLE
        rest = min(max(x_E[e], -700.0), 700.0) - power * LN2_HIGH - power * LN2_LOW
        series = 1.0 / 6227020800.0
        series = series * rest + 1.0 / 479001600.0
        series = series * rest + 1.0 / 39916800.0
        series = series * rest + 1.0 / 3628800.0
        series = series * rest + 1.0 / 362880.0
        series = series * rest + 1.0 / 40320.0
        series = series * rest + 1.0 / 5040.0
        series = series * rest + 1.0 / 720.0
        series = series * rest + 1.0 / 120.0
        series = series * rest + 1.0 / 24.0
        series = series * rest + 1.0 / 6.0
        series = series * rest + 0.5
        series = series * rest + 1.0
        out_E[e] = series * rest + 1.0
        scratch_E[e] = shifted
    bits_E, powers_E = out_E.view(np.int64), scratch_E.view(np.int64)
    for e in range(len(x_E)):
        bits_E[e] += powers_E[e] << 52  # times two to that power


@compiled_lean
def log(x_E: FloatArray, out_E: FloatArray, scratch_E: FloatArray) -> None:
    """out_E = ln x_E; three different arrays."""
    bits_E, powers_E, parts_E = x_E.view(np.int64), scratch_E.view(np.int64), out_E.view(np.int64)
    for e in range(len(x_E)):
        powers_E[e] = (bits_E[e] >> 52) | EXPONENT_BITS
        parts_E[e] = (bits_E[e] & MANTISSA_BITS) | ONE_BITS
    for e in range(len(x_E)):
        part, power = out_E[e], scratch_E[e] - EXPONENT - 1023.0
        is_large = part > 1.4142135623730951
        part = 0.5 * part if is_large else part
        power = power + 1.0 if is_large else power
        tangent = (part - 1.0) / (part + 1.0)
        square = tangent * tangent
        series = 1.0 / 21.0
        series = series * square + 1.0 / 19.0
        series = series * square + 1.0 / 17.0
        series = series * square + 1.0 / 15.0
        series = series * square + 1.0 / 13.0
        series = series * square + 1.0 / 11.0
        series = series * square + 1.0 / 9.0
        series = series * square + 1.0 / 7.0
        series = series * square + 1.0 / 5.0
        series = series * square + 1.0 / 3.0
        out_E[e] = power * LN2_HIGH + (power * LN2_LOW + 2.0 * tangent * (series * square + 1.0))
