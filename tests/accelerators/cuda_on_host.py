"""Runs the CUDA decode kernels on the host: the same source compiled by g++, every lane a coroutine.

The 32 lanes of a warp take turns; at a shuffle each waits until all have come there, as lockstep does.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hetsched.accelerators.cuda import source as cuda_source

PRELUDE = r"""
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>
#define __device__
#define __global__
#define __forceinline__ inline
struct uint3_ { unsigned x, y, z; };
struct uint4 { unsigned x, y, z, w; };
static uint3_ threadIdx, blockIdx, blockDim;
static float exchange[32];
static ucontext_t scheduler, lanes[32];
static unsigned lane_now;
static bool ended[32];
static std::function<void()> body;
static void yield() { swapcontext(&lanes[lane_now], &scheduler); }
static void lane_main() { body(); ended[lane_now] = true; yield(); }
static inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
static inline unsigned __float_as_uint(float x) { unsigned y; std::memcpy(&y, &x, 4); return y; }
static inline float __shfl_xor_sync(unsigned, float x, int offset) {
    const unsigned lane = lane_now;
    exchange[lane] = x;
    yield();  // until every lane of the warp has written
    const float other = exchange[lane ^ offset];
    yield();  // until every lane has read
    return other;
}
"""

HALF = r"""
#if DTYPE == 2
float widen(scalar x) { _Float16 y; std::memcpy(&y, &x, 2); return (float)y; }
scalar narrow(float x) { _Float16 y = (_Float16)x; scalar z; std::memcpy(&z, &y, 2); return z; }
#endif
static void run_warp(unsigned first, std::vector<char>& stacks) {
    for (unsigned lane = 0; lane < 32; ++lane) {
        getcontext(&lanes[lane]);
        lanes[lane].uc_stack.ss_sp = &stacks[lane * (stacks.size() / 32)];
        lanes[lane].uc_stack.ss_size = stacks.size() / 32;
        ended[lane] = false;
        makecontext(&lanes[lane], lane_main, 0);
    }
    for (bool more = true; more;) {
        more = false;
        for (lane_now = 0; lane_now < 32; ++lane_now) {
            if (ended[lane_now]) continue;
            threadIdx = {first + lane_now, 0, 0};
            swapcontext(&scheduler, &lanes[lane_now]);
            more = more || !ended[lane_now];
        }
    }
}
template <class Kernel> static void grid(unsigned blocks_x, unsigned blocks_y, unsigned threads, Kernel kernel) {
    static std::vector<char> stacks(32 * 65536);
    body = kernel;
    blockDim = {threads, 1, 1};
    for (unsigned y = 0; y < blocks_y; ++y) for (unsigned x = 0; x < blocks_x; ++x) {
        blockIdx = {x, y, 0};
        for (unsigned first = 0; first < threads; first += 32) run_warp(first, stacks);
    }
}
extern "C" void run_layer(const Layer* layer, const scalar* hidden, const long long* row, const float* weight,
                          scalar* act, scalar* part, scalar* out, int N, int T, int P, int H, int F,
                          int kind, float alpha, float limit) {
    grid((F + WARPS - 1) / WARPS, N, 32 * WARPS, [&] { gate_up(*layer, hidden, row, act, H, F, kind, alpha, limit); });
    grid((H + WARPS - 1) / WARPS, N, 32 * WARPS, [&] { down(*layer, act, weight, part, H, F); });
    grid((H + 31) / 32, T, 32, [&] { scatter(part, row, out, P, H); });
}
extern "C" unsigned long layer_bytes() { return sizeof(Layer); }
"""


def compiler() -> str | None:
    """A C++ compiler, or None."""
    return shutil.which("g++") or shutil.which("clang++")


def build(dtype: str, folder: Path) -> Any:
    """The kernels of a dtype as a host library. Raises CalledProcessError with the compiler's words."""
    source, library = folder / f"{dtype}.cpp", folder / f"{dtype}.so"
    source.write_text(PRELUDE + cuda_source.SOURCE + HALF)
    defines = [option for option in cuda_source.options(dtype) if option.startswith("-D")]
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas"]
    subprocess.run([str(compiler()), *flags, *defines, str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.layer_bytes.restype = ctypes.c_ulong
    return loaded
