"""Numbers of four bits in words, their scales elsewhere: mxfp4, int4-group, gptq, awq. Sixteen weights at a time."""

from __future__ import annotations

from typing import Any

from .load import Load, load
from .plain import SCALES

# A small whole number behind 2^23's exponent is 2^23 more than itself: exact, and faster than a conversion.
WHOLE = r"""
DEVICE float whole(word number) { return bits_to_float(0x4b000000u | number) - 8388608.0f; }
"""
# Twice an e2m1, whose bits in fp32's places are 2^126 too small; half of 2^(bits - 127), subnormal where it must be.
E2M1 = r"""
DEVICE float twice_e2m1(word code) {
    return bits_to_float((code & 7u) << 22 | (code & 8u) << 28) * 1.7014118346046923e38f;
}
DEVICE float half_e8m0(word bits) { return bits_to_float(bits < 2u ? 1u << (21u + bits) : (bits - 1u) << 23); }
"""
_MXFP4 = r"""
    const long long first = (long long)row * stored.columns + column;
    const uint2 raw = *reinterpret_cast<const uint2*>(matrix + first / 2);
    const float scale = half_e8m0((matrix + stored.second)[first / 32]);
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) weights[i] = twice_e2m1((i < 8 ? raw.x : raw.y) >> (4 * (i % 8)) & 15u) * scale;
"""
_INT4_GROUP = r"""
    const long long first = (long long)row * stored.columns + column;
    const uint2 raw = *reinterpret_cast<const uint2*>(matrix + first / 2);
    const float scale = scale_at(matrix + stored.second, first / GROUP);
#pragma unroll
    for (int i = 0; i < CHUNK; ++i)
        weights[i] = (whole((i < 8 ? raw.x : raw.y) >> (4 * (i % 8)) & 15u) - 8.0f) * scale;
"""
# Neighbouring rows lie side by side in these two, so that a block's warps share what they load.
_GPTQ = r"""
    const word* words = reinterpret_cast<const word*>(matrix) + (long long)(column / 8) * stored.rows + row;
    const long long group = column / GROUP, group_row = group * stored.rows + row;
    const word zeros = reinterpret_cast<const word*>(matrix + stored.second)[group_row / 8];
    const float zero = whole((zeros >> (4 * (row % 8))) + ZERO_OFFSET & 15u);
    const float scale = scale_at(matrix + stored.third, group_row);
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) {
        const word eight = words[(long long)(i / 8) * stored.rows];
        weights[i] = (whole(eight >> (4 * (i % 8)) & 15u) - zero) * scale;
    }
"""
_AWQ = r"""
    const int place = (row % 8) / 2 + (row % 2) * 4;  // 0, 4, 1, 5, 2, 6, 3, 7
    const word* words = reinterpret_cast<const word*>(matrix);
    const long long group_row = (long long)(column / GROUP) * stored.rows + row;
    const word zeros = reinterpret_cast<const word*>(matrix + stored.second)[group_row / 8];
    const float zero = whole(zeros >> (4 * place) & 15u), scale = scale_at(matrix + stored.third, group_row);
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) {
        const word eight = words[((long long)(column + i) * stored.rows + row) / 8];
        weights[i] = (whole(eight >> (4 * place) & 15u) - zero) * scale;
    }
"""


def mxfp4(_: Any) -> Load:
    """Of gpt-oss' files."""
    return load(16, {}, _MXFP4, E2M1)


def int4_group(format_: Any) -> Load | None:
    """Of compressed-tensors; groups of at least a chunk."""
    return _grouped(format_, _INT4_GROUP, {})


def gptq(format_: Any) -> Load | None:
    """Of GPTQ; groups of at least a chunk."""
    return _grouped(format_, _GPTQ, {"ZERO_OFFSET": format_.zero_offset})


def awq(format_: Any) -> Load | None:
    """Of AWQ; groups of at least a chunk."""
    return _grouped(format_, _AWQ, {})


def _grouped(format_: Any, body: str, constants: dict[str, int]) -> Load | None:
    if format_.group % 16:
        return None
    return load(16, {"GROUP": format_.group, **constants}, body, WHOLE + SCALES[format_.scales])
