"""CUDA C of the decode kernels: gather, gate and up, activation, down, and a sum in fixed order. Needs no headers.

One source for all formats: `load_block` of a format (see loads) turns CHUNK stored weights into fp32 in registers.

Shapes: T tokens of the step, P pairs of token and expert (sorted by expert), N experts, H hidden, F ffn.
"""

from __future__ import annotations

from .loads.load import Load

MAX_EXPERTS = 64  # of one launch; their addresses travel by value, within the 4 KiB that a kernel's arguments may have
MAX_ROWS = 4  # tokens of one expert in one launch
WARPS = 4  # of a block; each warp makes one output feature of one expert
THREADS = 32 * WARPS
SUM_THREADS = UNPACK_THREADS = 256
KERNELS = ("gate_up", "down", "unpack")  # of one format; and of none:
SCATTER = "scatter"
DTYPES = {"fp32": 0, "bf16": 1, "fp16": 2}  # of activations: -DDTYPE=...
SILU, SILU_CLAMPED, SIGMOID_CLAMPED = range(3)

TYPES = r"""
typedef unsigned char byte;
typedef unsigned short half_bits;
typedef unsigned int word;
#ifndef KERNEL
#define KERNEL extern "C" __global__
#endif
#define DEVICE __device__ __forceinline__

#if DTYPE == 0
typedef float scalar;
#define PER_LOAD 4
#else
typedef half_bits scalar;
#define PER_LOAD 8
#endif

struct Layer {  // one launch's experts: their weights, and where the pairs of each begin
    const byte* gate_N[MAX_EXPERTS];
    const byte* up_N[MAX_EXPERTS];
    const byte* down_N[MAX_EXPERTS];
    const scalar* up_bias_N[MAX_EXPERTS];  // [2F], or none
    const scalar* down_bias_N[MAX_EXPERTS];  // [H], or none
    int begin_N[MAX_EXPERTS + 1];
};

struct Stored {  // a matrix in a format, and at which of its bytes its second and third parts begin
    int rows, columns, second, third;
};

struct Order {  // ffn; which row is up's first and how far each next one is, as the matrices and as the biases have it
    int F, up_row, row_step, up_bias, bias_step;
};

DEVICE float bits_to_float(word bits) { return __uint_as_float(bits); }

#if defined(__CUDACC__)
DEVICE float half_to_float(half_bits bits) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(bits));
    return wide;
}
DEVICE half_bits float_to_half(float x) {
    half_bits bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#else
float half_to_float(half_bits bits);   // whoever compiles this for a host brings its own
half_bits float_to_half(float x);
#endif

#if DTYPE == 0
DEVICE float widen(scalar x) { return x; }
DEVICE scalar narrow(float x) { return x; }
#elif DTYPE == 1
DEVICE float widen(scalar x) { return bits_to_float(((word)x) << 16); }
DEVICE scalar narrow(float x) {  // to nearest, ties to even
    word bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return (scalar)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
#else
DEVICE float widen(scalar x) { return half_to_float(x); }
DEVICE scalar narrow(float x) { return float_to_half(x); }
#endif

DEVICE float rounded(float x) { return widen(narrow(x)); }

struct Pack { float at[PER_LOAD]; };

DEVICE Pack load(const scalar* source) {  // 16 bytes, aligned
    uint4 raw = *reinterpret_cast<const uint4*>(source);
    word words[4] = {raw.x, raw.y, raw.z, raw.w};
    Pack pack;
#pragma unroll
    for (int i = 0; i < PER_LOAD; ++i) {
#if DTYPE == 0
        pack.at[i] = bits_to_float(words[i]);
#else
        pack.at[i] = widen((scalar)(words[i / 2] >> (16 * (i % 2))));
#endif
    }
    return pack;
}

DEVICE void store(scalar* target, const float* from) {  // PER_LOAD of them, rounded
    word words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#if DTYPE == 0
        words[i] = __float_as_uint(from[i]);
#else
        words[i] = (word)narrow(from[2 * i]) | (word)narrow(from[2 * i + 1]) << 16;
#endif
    }
    const uint4 raw = {words[0], words[1], words[2], words[3]};
    *reinterpret_cast<uint4*>(target) = raw;
}

DEVICE float warp_sum(float x) {  // the same order in every lane and every run
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}
"""

# Values are rounded to the activations' type wherever transformers' eager forward rounds them; weights are not.
_ACTIVATION = r"""
DEVICE float activated(float gate, float up, int kind, float alpha, float limit) {
    if (kind != 0) {
        gate = gate > limit ? limit : gate;
        up = up > limit ? limit : (up < -limit ? -limit : up);
    }
    if (kind == 2) {
        float glu = rounded(gate * rounded(1.0f / (1.0f + expf(-rounded(gate * alpha)))));
        return rounded(rounded(up + 1.0f) * glu);
    }
    return rounded(rounded(gate / (1.0f + expf(-gate))) * up);
}

DEVICE float biased(float product, const scalar* bias, int at) {
    return bias ? rounded(rounded(product) + widen(bias[at])) : rounded(product);
}
"""

_PRODUCTS = r"""
// grid (ceil(F / WARPS), N): act_PF = act(gate(x)) * up(x), x the pair's row of hidden_TH
KERNEL void gate_up(const Layer layer, const Stored stored, const Order order, const scalar* hidden_TH,
                    const long long* row_P, scalar* act_PF, int kind, float alpha, float limit) {
    const int lane = threadIdx.x % 32, f = blockIdx.x * WARPS + threadIdx.x / 32, n = blockIdx.y;
    const int F = order.F, H = stored.columns, row = f * order.row_step;
    if (f >= F) return;
    const int begin = layer.begin_N[n], count = layer.begin_N[n + 1] - begin;
    const scalar* x_H[MAX_ROWS];
    float gate[MAX_ROWS] = {}, up[MAX_ROWS] = {};
#pragma unroll
    for (int p = 0; p < MAX_ROWS; ++p) x_H[p] = hidden_TH + (p < count ? row_P[begin + p] : 0) * H;
    for (int h = lane * CHUNK; h < H; h += 32 * CHUNK) {
        float g[CHUNK], u[CHUNK];
        load_block(layer.gate_N[n], stored, row, h, g);
        load_block(layer.up_N[n], stored, row + order.up_row, h, u);
#pragma unroll
        for (int p = 0; p < MAX_ROWS; ++p) {
            if (p >= count) break;
#pragma unroll
            for (int first = 0; first < CHUNK; first += PER_LOAD) {
                const Pack x = load(x_H[p] + h + first);
#pragma unroll
                for (int i = 0; i < PER_LOAD; ++i) {
                    gate[p] += g[first + i] * x.at[i];
                    up[p] += u[first + i] * x.at[i];
                }
            }
        }
    }
    const int bias = f * order.bias_step;
#pragma unroll
    for (int p = 0; p < MAX_ROWS; ++p) {
        const float g = biased(warp_sum(gate[p]), layer.up_bias_N[n], bias);
        const float u = biased(warp_sum(up[p]), layer.up_bias_N[n], bias + order.up_bias);
        const float a = activated(g, u, kind, alpha, limit);
        if (lane == 0 && p < count) act_PF[(long long)(begin + p) * F + f] = narrow(a);
    }
}

// grid (ceil(H / WARPS), N): part_PH = down(act) * router weight
KERNEL void down(const Layer layer, const Stored stored, const scalar* act_PF, const float* weight_P,
                 scalar* part_PH) {
    const int lane = threadIdx.x % 32, h = blockIdx.x * WARPS + threadIdx.x / 32, n = blockIdx.y;
    const int H = stored.rows, F = stored.columns;
    if (h >= H) return;
    const int begin = layer.begin_N[n], count = layer.begin_N[n + 1] - begin;
    float sum[MAX_ROWS] = {};
    for (int f = lane * CHUNK; f < F; f += 32 * CHUNK) {
        float d[CHUNK];
        load_block(layer.down_N[n], stored, h, f, d);
#pragma unroll
        for (int p = 0; p < MAX_ROWS; ++p) {
            if (p >= count) break;
#pragma unroll
            for (int first = 0; first < CHUNK; first += PER_LOAD) {
                const Pack a = load(act_PF + (long long)(begin + p) * F + f + first);
#pragma unroll
                for (int i = 0; i < PER_LOAD; ++i) sum[p] += d[first + i] * a.at[i];
            }
        }
    }
#pragma unroll
    for (int p = 0; p < MAX_ROWS; ++p) {
        const float out = biased(warp_sum(sum[p]), layer.down_bias_N[n], h);
        if (lane == 0 && p < count) part_PH[(long long)(begin + p) * H + h] = narrow(out * weight_P[begin + p]);
    }
}
"""

_UNPACK = r"""
// grid ceil(chunks / threads): row r of the matrix becomes row first + r * step of `out`
KERNEL void unpack(const byte* matrix, const Stored stored, scalar* out, int first, int step) {
    const long long chunk = (long long)blockIdx.x * blockDim.x + threadIdx.x, in_row = stored.columns / CHUNK;
    const int row = (int)(chunk / in_row), column = (int)(chunk % in_row) * CHUNK;
    if (row >= stored.rows) return;
    float weights[CHUNK];
    load_block(matrix, stored, row, column, weights);
    scalar* target = out + ((long long)row * step + first) * stored.columns + column;
#pragma unroll
    for (int i = 0; i < CHUNK; i += PER_LOAD) store(target + i, weights + i);
}
"""

_SUM = r"""
// grid (ceil(H / threads), T): out_TH = the sum of the token's parts in the order of the pairs, rounded at each
KERNEL void scatter(const scalar* part_PH, const long long* row_P, scalar* out_TH, int P, int H) {
    const int h = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (h >= H) return;
    float sum = 0.0f;
    for (int p = 0; p < P; ++p)
        if (row_P[p] == t) sum = rounded(sum + widen(part_PH[(long long)p * H + h]));
    out_TH[(long long)t * H + h] = narrow(sum);
}
"""

SUM_SOURCE = TYPES + _SUM


def products(load: Load) -> str:
    """The kernels of one format, behind TYPES."""
    return load.source + _ACTIVATION + _PRODUCTS + _UNPACK


def source_of(load: Load | None) -> str:
    """What to compile for the kernels of one format; of no format: the sum."""
    return SUM_SOURCE if load is None else TYPES + products(load)


def options(dtype: str) -> tuple[str, ...]:
    """Compiler options for activations of a dtype: fp32, bf16 or fp16."""
    sizes = f"-DMAX_EXPERTS={MAX_EXPERTS}", f"-DMAX_ROWS={MAX_ROWS}", f"-DWARPS={WARPS}"
    return (f"-DDTYPE={DTYPES[dtype]}", *sizes, "--std=c++17")
