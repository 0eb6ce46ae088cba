"""GGUF's blocks, sixteen weights at a time. Their bytes begin where blocks do, most of them at even addresses only."""

from __future__ import annotations

from typing import Any

from .load import Load, load
from .words import E2M1, WHOLE

_BLOCKS = r"""
DEVICE float half_at(const byte* at) { return half_to_float(*reinterpret_cast<const half_bits*>(at)); }
DEVICE void two_bytes(const byte* from, int i, word* bytes) {  // bytes i and i + 1, of an even address
    const word both = *reinterpret_cast<const half_bits*>(from + i);
    bytes[i] = both & 255u;
    bytes[i + 1] = both >> 8;
}
"""
_OF_32 = r"""
    const byte* block = matrix + ((long long)row * stored.columns + column) / 32 * BYTES;
    const int half = column / 16 % 2;
    word bytes[CHUNK];
"""
_Q8_0 = r"""
    const float scale = half_at(block);
#pragma unroll
    for (int i = 0; i < CHUNK; i += 2) two_bytes(block + 2 + 16 * half, i, bytes);
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) weights[i] = (whole(bytes[i] ^ 128u) - 128.0f) * scale;
"""
_Q4_0 = r"""
    const float scale = half_at(block);
#pragma unroll
    for (int i = 0; i < CHUNK; i += 2) two_bytes(block + 2, i, bytes);
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) weights[i] = (whole(bytes[i] >> (4 * half) & 15u) - 8.0f) * scale;
"""
_MXFP4 = r"""
    const float scale = half_e8m0(block[0]);
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) bytes[i] = block[1 + i];
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) weights[i] = twice_e2m1(bytes[i] >> (4 * half) & 15u) * scale;
"""
_OF_256 = r"""
    const byte* block = matrix + ((long long)row * stored.columns + column) / 256 * BYTES;
    const int at = column % 256;
"""
# Scale, minimum, 12 bytes of eight scales and eight minima of six bits (as hetsched.formats.q4_k has them), numbers.
_Q4_K = r"""
    const int group = at / 32, low = group % 4;
    const byte* small = block + 4;
    word scale_bits = small[low] & 63u, least_bits = small[4 + low] & 63u;
    if (group > 3) {
        scale_bits = (small[8 + low] & 15u) | (word)(small[low] >> 6) << 4;
        least_bits = (word)(small[8 + low] >> 4) | (word)(small[4 + low] >> 6) << 4;
    }
    const float scale = half_at(block) * whole(scale_bits), least = half_at(block + 2) * whole(least_bits);
    const uint4 raw = *reinterpret_cast<const uint4*>(block + 16 + group / 2 * 32 + at % 32);
    const word words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) {
        const word number = words[i / 4] >> (8 * (i % 4) + 4 * (group % 2)) & 15u;
        weights[i] = scale * whole(number) - least;
    }
"""
_Q6_K = r"""
    const int half = at / 128, in_half = at % 128, low_shift = in_half / 64 * 4, high_shift = in_half / 32 * 2;
    const float scale = half_at(block + 208) * (float)(signed char)block[192 + at / 16];
    word low[CHUNK], high[CHUNK];
#pragma unroll
    for (int i = 0; i < CHUNK; i += 2) {
        two_bytes(block + 64 * half + in_half % 64, i, low);
        two_bytes(block + 128 + 32 * half + in_half % 32, i, high);
    }
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) {
        const word number = (low[i] >> low_shift & 15u) | (high[i] >> high_shift & 3u) << 4;
        weights[i] = (whole(number) - 32.0f) * scale;
    }
"""


def q8_0(format_: Any) -> Load:
    """Of Q8_0."""
    return _blocks(format_, _OF_32 + _Q8_0)


def q4_0(format_: Any) -> Load:
    """Of Q4_0."""
    return _blocks(format_, _OF_32 + _Q4_0)


def gguf_mxfp4(format_: Any) -> Load:
    """Of MXFP4 as GGUF has it."""
    return load(16, {"BYTES": format_.block_bytes}, _OF_32 + _MXFP4, E2M1)


def q4_k(format_: Any) -> Load:
    """Of Q4_K."""
    return _blocks(format_, _OF_256 + _Q4_K)


def q6_k(format_: Any) -> Load:
    """Of Q6_K."""
    return _blocks(format_, _OF_256 + _Q6_K)


def _blocks(format_: Any, body: str) -> Load:
    return load(16, {"BYTES": format_.block_bytes}, body, WHOLE + _BLOCKS)
