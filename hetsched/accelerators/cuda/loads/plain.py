"""Weights as they are, eight at a time; and scales, which are stored as such weights are."""

from __future__ import annotations

from typing import Any

from .load import Load, load

_SCALE = "DEVICE float scale_at(const byte* at, long long i) { return %s; }\n"
SCALES = {
    "float32": _SCALE % "((const float*)at)[i]",
    "bfloat16": _SCALE % "bits_to_float((word)((const half_bits*)at)[i] << 16)",
    "float16": _SCALE % "half_to_float(((const half_bits*)at)[i])",
}
_FP32 = r"""
    const uint4* at = reinterpret_cast<const uint4*>(matrix + 4 * ((long long)row * stored.columns + column));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const uint4 raw = at[i];
        const word words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) weights[4 * i + k] = bits_to_float(words[k]);
    }
"""
_HALF = r"""
    const uint4 raw = *reinterpret_cast<const uint4*>(matrix + 2 * ((long long)row * stored.columns + column));
    const word words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) {
        const half_bits bits = (half_bits)(words[i / 2] >> (16 * (i % 2)));
        weights[i] = WIDE;
    }
"""


def fp32(_: Any = None) -> Load:
    """Of fp32."""
    return load(8, {}, _FP32)


def bf16(_: Any = None) -> Load:
    """Of bf16."""
    return load(8, {}, _HALF.replace("WIDE", "bits_to_float((word)bits << 16)"))


def fp16(_: Any = None) -> Load:
    """Of fp16."""
    return load(8, {}, _HALF.replace("WIDE", "half_to_float(bits)"))
