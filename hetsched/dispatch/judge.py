"""The guard's own arithmetic as compiled kernels: is a problem well formed, what does a choice come to.

DispatchProblem's methods ask here. Nothing here comes from a solver; tests hold a plain twin against it, bit by bit. It
imports numba, so get it from `hetsched.dispatch.problem.judging`, at the first use.

Shapes: N experts under decision, V victims. `packed` is DispatchProblem.packed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..jit import compiled, compiled_and_kept, compiled_by_name, compiled_lean
from ..types import FloatArray, IntArray


@compiled_and_kept
def well_formed(packed: FloatArray, size: int, link_free_s: float, roundtrip_s: float, gpu_call_s: float) -> bool:
    """Whether every number is in its range; false for NaN."""
    if not (0 <= link_free_s < np.inf and 0 <= roundtrip_s < np.inf and 0 <= gpu_call_s < np.inf):
        return False
    for i in range(3 * size):
        if not 0 <= packed[i] < np.inf:
            return False
    for i in range(3 * size, 5 * size):
        if not packed[i] >= 0:
            return False
    last_s = 0.0
    for i in range(5 * size, len(packed)):
        if not last_s <= packed[i] < np.inf:
            return False
        last_s = packed[i]
    return True


@compiled_lean
def runs_later(packed: FloatArray, size: int, a: int, b: int) -> bool:
    """Whether a must run after b on the GPU: by arrival, among fetched ones by Johnson's rule."""
    ready_a, ready_b = packed[4 * size + a], packed[4 * size + b]
    if ready_a < np.inf or ready_b < np.inf:
        return bool(ready_a > ready_b)
    short_a, short_b = packed[3 * size + a] < packed[a], packed[3 * size + b] < packed[b]
    if short_a != short_b:
        return bool(short_b)
    return bool(packed[3 * size + a] > packed[3 * size + b] if short_a else packed[a] < packed[b])


@compiled_lean
def gpu_order(packed: FloatArray, size: int, choice_N: npt.NDArray[np.int8], order_N: IntArray) -> int:
    """Fill `order_N` with the experts that the choice runs on the GPU, as it runs them, ties by number; how many."""
    count = 0
    for i in range(size):
        if choice_N[i] != 0:
            place = count
            while place > 0 and runs_later(packed, size, order_N[place - 1], i):
                order_N[place] = order_N[place - 1]
                place -= 1
            order_N[place] = i
            count += 1
    return count


@compiled_lean
def obeys(packed: FloatArray, size: int, choice_N: npt.NDArray[np.int8]) -> bool:
    """Whether a choice obeys arrival, copying and slots."""
    fetches = 0
    for i in range(size):
        copy_s, ready_s = packed[3 * size + i], packed[4 * size + i]
        if choice_N[i] == 1:
            if ready_s == np.inf:
                return False
        elif choice_N[i] == 2:
            if ready_s < np.inf or copy_s == np.inf:
                return False
            fetches += 1
        elif choice_N[i] != 0:
            return False
    return fetches <= len(packed) - 5 * size


@compiled
def seconds(
    packed: FloatArray,
    size: int,
    link_free_s: float,
    roundtrip_s: float,
    gpu_call_s: float,
    choice_N: npt.NDArray[np.int8],
) -> tuple[float, float]:
    """Makespan and prices of a feasible choice."""
    order_N = np.empty(size, np.int64)
    on_gpu = gpu_order(packed, size, choice_N, order_N)
    gpu_end_s, arrival_s = gpu_call_s if on_gpu else 0.0, link_free_s
    for i in order_N[:on_gpu]:
        if choice_N[i] == 1:
            gpu_end_s = max(gpu_end_s, packed[4 * size + i]) + packed[i]
        else:
            arrival_s += packed[3 * size + i]
            gpu_end_s = max(gpu_end_s, arrival_s) + packed[i]
    fetches, on_cpu, cpu_s, prices_s, utilities_s = 0, False, 0.0, 0.0, 0.0
    for i in range(size):
        if choice_N[i] == 0:
            cpu_s += packed[size + i]
            on_cpu = True
        elif choice_N[i] == 2:
            prices_s += packed[5 * size + fetches]
            utilities_s += packed[2 * size + i]
            fetches += 1
    makespan_s = max(gpu_end_s, roundtrip_s + cpu_s) if on_cpu else gpu_end_s
    return makespan_s, prices_s - utilities_s


@compiled_by_name("(float64[::1], int64, float64, float64, float64, int8[::1])")
def judge(
    packed: FloatArray,
    size: int,
    link_free_s: float,
    roundtrip_s: float,
    gpu_call_s: float,
    choice_N: npt.NDArray[np.int8],
) -> tuple[bool, float, float, float]:
    """Of a choice int8 [N]: feasible, makespan, prices (infinite where it is not); and the incumbent's objective."""
    incumbent_N = np.zeros(size, np.int8)
    for i in range(size):
        incumbent_N[i] = packed[4 * size + i] == 0
    makespan_s, _ = seconds(packed, size, link_free_s, roundtrip_s, gpu_call_s, incumbent_N)
    if not obeys(packed, size, choice_N):
        return False, np.inf, np.inf, makespan_s
    found_s, prices_s = seconds(packed, size, link_free_s, roundtrip_s, gpu_call_s, choice_N)
    return True, found_s, prices_s, makespan_s
