"""CUDA C of the decode kernels: gather, gate and up, activation, down, and a sum in fixed order. Needs no headers.

Shapes: T tokens of the step, P pairs of token and expert (sorted by expert), N experts, H hidden, F ffn.
"""

from __future__ import annotations

MAX_EXPERTS = 64  # of one launch; their addresses travel by value, within the 4 KiB that a kernel's arguments may have
MAX_ROWS = 4  # tokens of one expert in one launch
WARPS = 4  # of a block; each warp makes one output feature of one expert
THREADS = 32 * WARPS
SUM_THREADS = 256
KERNELS = ("gate_up", "down", "scatter")
DTYPES = {"fp32": 0, "bf16": 1, "fp16": 2}  # -DDTYPE=...
SILU, SILU_CLAMPED, SIGMOID_CLAMPED = range(3)

TYPES = r"""
typedef unsigned short half_bits;
typedef unsigned int word;

#if DTYPE == 0
typedef float scalar;
#define PER_LOAD 4
#else
typedef half_bits scalar;
#define PER_LOAD 8
#endif

struct Layer {  // one launch's experts: their weights, and where the pairs of each begin
    const scalar* up_N[MAX_EXPERTS];    // [2F, H]
    const scalar* down_N[MAX_EXPERTS];  // [H, F]
    int begin_N[MAX_EXPERTS + 1];
};

__device__ __forceinline__ float bits_to_float(word bits) { return __uint_as_float(bits); }

#if DTYPE == 0
__device__ __forceinline__ float widen(scalar x) { return x; }
__device__ __forceinline__ scalar narrow(float x) { return x; }
#elif DTYPE == 1
__device__ __forceinline__ float widen(scalar x) { return bits_to_float(((word)x) << 16); }
__device__ __forceinline__ scalar narrow(float x) {  // to nearest, ties to even
    word bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return (scalar)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
#elif defined(__CUDACC__)
__device__ __forceinline__ float widen(scalar x) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x));
    return wide;
}
__device__ __forceinline__ scalar narrow(float x) {
    scalar bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#else
float widen(scalar x);   // whoever compiles this for a host brings its own
scalar narrow(float x);
#endif

__device__ __forceinline__ float rounded(float x) { return widen(narrow(x)); }

struct Pack { float at[PER_LOAD]; };

__device__ __forceinline__ Pack load(const scalar* source) {  // 16 bytes, aligned
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

__device__ __forceinline__ float warp_sum(float x) {  // the same order in every lane and every run
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}
"""

# Values are rounded to the weights' type wherever transformers' eager forward rounds them.
_ACTIVATION = r"""
__device__ __forceinline__ float activated(float gate, float up, int kind, float alpha, float limit) {
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
"""

_KERNELS = r"""
// grid (ceil(F / WARPS), N): act_PF = act(gate(x)) * up(x), x the pair's row of hidden_TH
extern "C" __global__ void gate_up(const Layer layer, const scalar* hidden_TH, const long long* row_P, scalar* act_PF,
                                   int H, int F, int kind, float alpha, float limit) {
    const int lane = threadIdx.x % 32, f = blockIdx.x * WARPS + threadIdx.x / 32, n = blockIdx.y;
    if (f >= F) return;
    const int begin = layer.begin_N[n], count = layer.begin_N[n + 1] - begin;
    const scalar* gate_H = layer.up_N[n] + (long long)f * H;
    const scalar* up_H = gate_H + (long long)F * H;
    const scalar* x_H[MAX_ROWS];
    float gate[MAX_ROWS] = {}, up[MAX_ROWS] = {};
#pragma unroll
    for (int p = 0; p < MAX_ROWS; ++p) x_H[p] = hidden_TH + (p < count ? row_P[begin + p] : 0) * H;
    for (int h = lane * PER_LOAD; h < H; h += 32 * PER_LOAD) {
        const Pack g = load(gate_H + h), u = load(up_H + h);
#pragma unroll
        for (int p = 0; p < MAX_ROWS; ++p) {
            if (p >= count) break;
            const Pack x = load(x_H[p] + h);
#pragma unroll
            for (int i = 0; i < PER_LOAD; ++i) {
                gate[p] += g.at[i] * x.at[i];
                up[p] += u.at[i] * x.at[i];
            }
        }
    }
#pragma unroll
    for (int p = 0; p < MAX_ROWS; ++p) {
        const float g = rounded(warp_sum(gate[p])), u = rounded(warp_sum(up[p]));
        const float a = activated(g, u, kind, alpha, limit);
        if (lane == 0 && p < count) act_PF[(long long)(begin + p) * F + f] = narrow(a);
    }
}

// grid (ceil(H / WARPS), N): part_PH = down(act) * router weight
extern "C" __global__ void down(const Layer layer, const scalar* act_PF, const float* weight_P, scalar* part_PH,
                                int H, int F) {
    const int lane = threadIdx.x % 32, h = blockIdx.x * WARPS + threadIdx.x / 32, n = blockIdx.y;
    if (h >= H) return;
    const int begin = layer.begin_N[n], count = layer.begin_N[n + 1] - begin;
    const scalar* down_F = layer.down_N[n] + (long long)h * F;
    float sum[MAX_ROWS] = {};
    for (int f = lane * PER_LOAD; f < F; f += 32 * PER_LOAD) {
        const Pack d = load(down_F + f);
#pragma unroll
        for (int p = 0; p < MAX_ROWS; ++p) {
            if (p >= count) break;
            const Pack a = load(act_PF + (long long)(begin + p) * F + f);
#pragma unroll
            for (int i = 0; i < PER_LOAD; ++i) sum[p] += d.at[i] * a.at[i];
        }
    }
#pragma unroll
    for (int p = 0; p < MAX_ROWS; ++p) {
        const float out = rounded(warp_sum(sum[p]));
        if (lane == 0 && p < count) part_PH[(long long)(begin + p) * H + h] = narrow(out * weight_P[begin + p]);
    }
}

// grid (ceil(H / threads), T): out_TH = the sum of the token's parts in the order of the pairs, rounded at each
extern "C" __global__ void scatter(const scalar* part_PH, const long long* row_P, scalar* out_TH, int P, int H) {
    const int h = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (h >= H) return;
    float sum = 0.0f;
    for (int p = 0; p < P; ++p)
        if (row_P[p] == t) sum = rounded(sum + widen(part_PH[(long long)p * H + h]));
    out_TH[(long long)t * H + h] = narrow(sum);
}
"""

SOURCE = TYPES + _ACTIVATION + _KERNELS


def options(dtype: str) -> tuple[str, ...]:
    """Compiler options for weights of a dtype: fp32, bf16 or fp16."""
    sizes = f"-DMAX_EXPERTS={MAX_EXPERTS}", f"-DMAX_ROWS={MAX_ROWS}", f"-DWARPS={WARPS}"
    return (f"-DDTYPE={DTYPES[dtype]}", *sizes, "--std=c++17")
