"""FP8 in blocks: sixteen bytes and their block's scale."""

from __future__ import annotations

from typing import Any

from .load import Load, load
from .plain import SCALES

# e4m3 in the places of fp32's exponent and mantissa is 2^120 too small; small ones are so in both.
_BODY = r"""
    const uint4 raw = *reinterpret_cast<const uint4*>(matrix + (long long)row * stored.columns + column);
    const word words[4] = {raw.x, raw.y, raw.z, raw.w};
    const int wide = (stored.columns + SIDE - 1) / SIDE;
    const float scale = scale_at(matrix + stored.second, (long long)(row / SIDE) * wide + column / SIDE);
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) {
        const word bits = words[i / 4] >> (8 * (i % 4)) & 255u;
        const float size = bits_to_float((bits & 127u) << 20 | (bits >> 7) << 31) * 1.329227995784916e36f;
        weights[i] = ((bits & 127u) == 127u ? bits_to_float(0x7fc00000u) : size) * scale;
    }
"""


def fp8_block(format_: Any) -> Load:
    """Of fp8-block with scales of either dtype."""
    return load(16, {"SIDE": format_.block[0]}, _BODY, SCALES[format_.scales])
