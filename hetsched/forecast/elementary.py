"""exp and log over float32 vectors, in a form that LLVM compiles to vector instructions; numba calls libm number by
number.

Accurate to a few units in the last place for finite arguments of ordinary size (|x| < 87 for exp, normal positive
numbers for log). Method: reduction by powers of two with their exponents as bits, then a polynomial: Taylor's for exp,
that of the inverse hyperbolic tangent for log (Muller, "Elementary functions", chapters 3 and 11). All constants are
float32, since one of another type would make the whole loop float64.

Shapes: E experts.
"""

from __future__ import annotations

import numpy as np

from ..jit import compiled_lean
from ..types import Float32Array

ZERO, HALF, ONE, TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
TOP = np.float32(87.0)
LOG2_E, ROOT_2 = np.float32(1.44269504), np.float32(1.41421356)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # ln 2 in two parts
WHOLE = np.float32(12582912.0)  # 1.5 * 2 ** 23: added to a small number, it leaves its nearest whole in the low bits
EXPONENT = np.float32(8388608.0 + 127.0)  # 2 ** 23, whose bits with a small whole below are that number more; the bias
EXPONENT_BITS, MANTISSA_BITS, ONE_BITS = np.int32(0x4B000000), np.int32(0x007FFFFF), np.int32(0x3F800000)
PLACES = np.int32(23)  # of the mantissa
_2, _6, _24, _120, _720, _5040 = (np.float32(1.0 / n) for n in (2, 6, 24, 120, 720, 5040))
_3, _5, _7, _9 = (np.float32(1.0 / n) for n in (3, 5, 7, 9))


@compiled_lean
def exp(x_E: Float32Array, out_E: Float32Array, scratch_E: Float32Array) -> None:
    """out_E = e ** x_E; `x_E` and `out_E` may be one array."""
    for e in range(len(x_E)):
        held = min(max(x_E[e], -TOP), TOP)
        shifted = held * LOG2_E + WHOLE
        power = shifted - WHOLE
        rest = held - power * LN2_HIGH - power * LN2_LOW
        series = _5040 * rest + _720
        series = series * rest + _120
        series = series * rest + _24
        series = series * rest + _6
        series = series * rest + _2
        series = series * rest + ONE
        out_E[e] = series * rest + ONE
        scratch_E[e] = shifted
    bits_E, powers_E = out_E.view(np.int32), scratch_E.view(np.int32)
    for e in range(len(x_E)):
        bits_E[e] += powers_E[e] << PLACES  # times two to that power


@compiled_lean
def log(x_E: Float32Array, out_E: Float32Array, scratch_E: Float32Array) -> None:
    """out_E = ln x_E; three different arrays."""
    bits_E, powers_E, parts_E = x_E.view(np.int32), scratch_E.view(np.int32), out_E.view(np.int32)
    for e in range(len(x_E)):
        powers_E[e] = (bits_E[e] >> PLACES) | EXPONENT_BITS
        parts_E[e] = (bits_E[e] & MANTISSA_BITS) | ONE_BITS
    for e in range(len(x_E)):
        part, power = out_E[e], scratch_E[e] - EXPONENT
        is_large = part > ROOT_2
        part = HALF * part if is_large else part
        power = power + ONE if is_large else power
        tangent = (part - ONE) / (part + ONE)
        square = tangent * tangent
        series = _9 * square + _7
        series = series * square + _5
        series = series * square + _3
        out_E[e] = power * LN2_HIGH + (power * LN2_LOW + TWO * tangent * (series * square + ONE))
