"""A product with an expert's lossy copy on a CUDA device, in one launch: it reads the copy's bytes and nothing else.

Shapes: T tokens, N output columns, K input columns, B blocks of 32 weights along a row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from ...tiers import BLOCK
from . import source as cuda_source
from .kernels import DTYPE_NAMES
from .source import MAX_ROWS, THREADS, WARPS

KERNELS = {8: "linear_q8", 4: "linear_q4"}  # by bits of a number

# One warp a row of weights; a lane takes every 32nd block, so that a warp's loads are neighbours.
PRODUCTS = r"""
#define BLOCK 32

__device__ __forceinline__ float scale_of(half_bits bits) {  // fp16, finite; the exponent is moved by a product
    const float size = bits_to_float((word)(bits & 0x7fffu) << 13) * 5.192296858534828e33f;
    return bits & 0x8000u ? -size : size;
}

__device__ __forceinline__ int signed_at(uint4 raw, int byte, int shift, int bits) {
    const word words[4] = {raw.x, raw.y, raw.z, raw.w};
    return ((int)(words[byte / 4] << (32 - bits - shift - 8 * (byte % 4)))) >> (32 - bits);
}

template <int BITS>
__device__ __forceinline__ void linear(const unsigned char* numbers, const half_bits* scales, const scalar* x_TK,
                                       scalar* y_TN, int T, int N, int K) {
    const int lane = threadIdx.x % 32, n = blockIdx.x * WARPS + threadIdx.x / 32, B = K / BLOCK;
    if (n >= N) return;
    float sum[MAX_ROWS] = {};
    for (int b = lane; b < B; b += 32) {
        const long long at = (long long)n * B + b;
        float block[MAX_ROWS] = {};
#pragma unroll
        for (int half = 0; half < 2; ++half) {  // 16 numbers: 16 bytes, or the low and then the high nibbles of 16
            const uint4 raw = *reinterpret_cast<const uint4*>(numbers + (BITS == 8 ? 32 * at + 16 * half : 16 * at));
#pragma unroll
            for (int first = 0; first < 16; first += PER_LOAD) {
#pragma unroll
                for (int t = 0; t < MAX_ROWS; ++t) {
                    if (t >= T) break;
                    const Pack x = load(x_TK + (long long)t * K + b * BLOCK + 16 * half + first);
#pragma unroll
                    for (int i = 0; i < PER_LOAD; ++i)
                        block[t] += (float)signed_at(raw, first + i, BITS == 8 ? 0 : 4 * half, BITS) * x.at[i];
                }
            }
        }
        const float scale = scale_of(scales[at]);
#pragma unroll
        for (int t = 0; t < MAX_ROWS; ++t) sum[t] += scale * block[t];
    }
#pragma unroll
    for (int t = 0; t < MAX_ROWS; ++t) {
        const float y = warp_sum(sum[t]);
        if (lane == 0 && t < T) y_TN[(long long)t * N + n] = narrow(y);
    }
}

// grid ceil(N / WARPS): y_TN = x_TK times the copy's weights [N, K], at most MAX_ROWS tokens
extern "C" __global__ void linear_q8(const unsigned char* numbers, const half_bits* scales, const scalar* x_TK,
                                     scalar* y_TN, int T, int N, int K) {
    linear<8>(numbers, scales, x_TK, y_TN, T, N, K);
}

extern "C" __global__ void linear_q4(const unsigned char* numbers, const half_bits* scales, const scalar* x_TK,
                                     scalar* y_TN, int T, int N, int K) {
    linear<4>(numbers, scales, x_TK, y_TN, T, N, K);
}
"""

SOURCE = cuda_source.TYPES + PRODUCTS


def serves(x_TK: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether the kernel takes these activations with weights of `dtype`: few rows of whole blocks on a CUDA device."""
    plain = x_TK.ndim == 2 and x_TK.is_contiguous() and x_TK.data_ptr() % 16 == 0
    whole = plain and 0 < len(x_TK) <= MAX_ROWS and x_TK.shape[1] % BLOCK == 0
    return x_TK.is_cuda and whole and x_TK.dtype == dtype and dtype in DTYPE_NAMES and _cupy() is not None


def linear(
    numbers: torch.Tensor, scales: torch.Tensor, bits: int, num_columns: int, x_TK: torch.Tensor
) -> torch.Tensor:
    """x times the weights of a copy, summed in fp32 in one order: [T, N]. On torch's current stream.

    `numbers`: one row a block, 32 bytes (8 bits) or 16 (4 bits); 16-byte aligned; `scales` fp16, one a block.
    """
    num_tokens, num_inputs = x_TK.shape
    y_TN = x_TK.new_empty((num_tokens, num_columns))
    pointers = tuple(tensor.data_ptr() for tensor in (numbers, scales, x_TK, y_TN))
    sizes = np.int32(num_tokens), np.int32(num_columns), np.int32(num_inputs)
    with _cupy().cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
        _function(KERNELS[bits], DTYPE_NAMES[x_TK.dtype])((-(-num_columns // WARPS),), (THREADS,), (*pointers, *sizes))
    return y_TN


@cache
def _cupy() -> Any:
    """CuPy, or None: weights are then made by torch before each product."""
    try:
        import cupy
    except ImportError:
        return None
    return cupy


@cache
def _function(name: str, dtype: str) -> Callable[..., None]:
    module = _cupy().RawModule(code=SOURCE, options=cuda_source.options(dtype))
    kernel: Callable[..., None] = module.get_function(name)
    return kernel
