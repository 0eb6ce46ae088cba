"""Runs the CUDA decode kernels on the host: the same source compiled by g++, every lane a coroutine.

The 32 lanes of a warp take turns; at a shuffle each waits until all have come there, as lockstep does.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetsched.accelerators.cuda import source as cuda_source
from hetsched.accelerators.cuda.loads import Load

PRELUDE = r"""
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>
#define __device__
#define __global__
#define __forceinline__ inline
#define KERNEL static
struct uint3_ { unsigned x, y, z; };
struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };
static uint3_ threadIdx, blockIdx, blockDim;
static float exchange[32];
static ucontext_t beginning[32];
static jmp_buf scheduler, lanes[32];  // jumps, which unlike swapcontext ask nothing of the system
static unsigned lane_now;
static bool more, begun[32], ended[32];
static std::function<void()> body;
static void yield() { if (!_setjmp(lanes[lane_now])) _longjmp(scheduler, 1); }
static void lane_main() { body(); ended[lane_now] = true; yield(); }
static void resume() {
    if (_setjmp(scheduler)) return;
    if (begun[lane_now]) _longjmp(lanes[lane_now], 1);
    begun[lane_now] = true;
    setcontext(&beginning[lane_now]);
}
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

GRID = r"""
float half_to_float(half_bits x) { _Float16 y; std::memcpy(&y, &x, 2); return (float)y; }
half_bits float_to_half(float x) { _Float16 y = (_Float16)x; half_bits z; std::memcpy(&z, &y, 2); return z; }
static void run_warp(unsigned first, std::vector<char>& stacks) {
    for (unsigned lane = 0; lane < 32; ++lane) {
        getcontext(&beginning[lane]);
        beginning[lane].uc_stack.ss_sp = &stacks[lane * (stacks.size() / 32)];
        beginning[lane].uc_stack.ss_size = stacks.size() / 32;
        begun[lane] = ended[lane] = false;
        makecontext(&beginning[lane], lane_main, 0);
    }
    for (more = true; more;) {
        more = false;
        for (lane_now = 0; lane_now < 32; ++lane_now) {
            if (ended[lane_now]) continue;
            threadIdx = {first + lane_now, 0, 0};
            resume();
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
extern "C" unsigned long layer_bytes() { return sizeof(Layer); }
extern "C" void sum(const scalar* part, const long long* row, scalar* out, int T, int P, int H) {
    grid((H + 31) / 32, T, 32, [&] { scatter(part, row, out, P, H); });
}
"""

# The entries to one format's kernels, in whose namespace they stand.
ENTRIES = r"""
extern "C" void weights_NAME(const byte* matrix, const Stored* stored, float* weights) {
    for (int r = 0; r < stored->rows; ++r)
        for (int c = 0; c < stored->columns; c += CHUNK)
            load_block(matrix, *stored, r, c, weights + (long long)r * stored->columns + c);
}
extern "C" void gate_up_NAME(const Layer* layer, const Stored* stored, const Order* order, const scalar* hidden,
                             const long long* row, scalar* act, int N, int kind, float alpha, float limit) {
    grid((order->F + WARPS - 1) / WARPS, N, 32 * WARPS,
         [&] { gate_up(*layer, *stored, *order, hidden, row, act, kind, alpha, limit); });
}
extern "C" void down_NAME(const Layer* layer, const Stored* stored, const scalar* act, const float* weight,
                          scalar* part, int N) {
    grid((stored->rows + WARPS - 1) / WARPS, N, 32 * WARPS, [&] { down(*layer, *stored, act, weight, part); });
}
extern "C" void whole_NAME(const byte* matrix, const Stored* stored, scalar* out, int first, int step) {
    const unsigned chunks = stored->rows * (stored->columns / CHUNK);
    grid((chunks + 31) / 32, 1, 32, [&] { unpack(matrix, *stored, out, first, step); });
}
"""


def compiler() -> str | None:
    """A C++ compiler, or None."""
    return shutil.which("g++") or shutil.which("clang++")


def build(dtype: str, loads: Mapping[str, Load], folder: Path) -> Any:
    """The kernels of formats, by names of the caller's, with activations of a dtype as a host library.

    Raises CalledProcessError with the compiler's words.
    """
    source, library = folder / f"{dtype}.cpp", folder / f"{dtype}.so"
    spaces = [
        f"namespace of_{name} {{{cuda_source.products(load)}{ENTRIES.replace('NAME', name)}}}"
        for name, load in loads.items()
    ]
    source.write_text(PRELUDE + cuda_source.SUM_SOURCE + GRID + "\n".join(spaces))
    defines = [option for option in cuda_source.options(dtype) if option.startswith("-D")]
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE"]
    subprocess.run([str(compiler()), *flags, *defines, str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.layer_bytes.restype = ctypes.c_ulong
    return loaded
