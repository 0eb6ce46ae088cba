"""The whole of `exact`: lay out, bound, search, and split by what is in flight where that decides.

Shapes: N experts under decision, V victims, M movable experts (lanes.py).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hetsched.jit import compiled
from hetsched.types import FloatArray, IntArray

from .branch import longest_makespan, search, simple_choice
from .lanes import READY, Bits, Lanes, assign, lay_out, movable_experts, objective
from .polish import polish

MOST_TRIALS = 2_000_000  # exchanges tried by the local search, all moves together
MAX_FINALS = 64  # splitting by the last fetch pays while the fetches are few


class Whole(NamedTuple):
    """The problem that parts are cut from; `resident` of the `num_here` experts that are here, the rest in flight."""

    packed: FloatArray
    size: int
    resident: int
    num_here: int
    link_free_s: float
    roundtrip_s: float
    gpu_call_s: float
    unit_s: float


@compiled
def first_nodes(movable: int) -> int:
    """Trials before a part is split: enough for the easy ones, which are most."""
    return 1000 + 40 * movable


@compiled
def search_part(
    whole: Whole, order_M: IntArray, last: int, final: int, best: float, best_x_M: Bits, max_nodes: int
) -> tuple[float, float, int]:
    """As `search`, over choices where `last` and `final` are positions in lane order that bound the GPU's experts.

    `last`: the last expert in flight on the GPU (below the first in flight: none is). `final`: the last one fetched
    (below the first to fetch: none is; the number of movable experts: left open). Updates `best_x_M`.
    """
    movable, resident, num_here = len(order_M), whole.resident, whole.num_here
    kept = max(last, resident)
    end = movable if final >= movable else max(final, num_here)
    sub_M, sub_x_M = np.empty(kept + end - num_here, np.int64), np.zeros(kept + end - num_here, np.int8)
    for m in range(len(sub_M)):
        sub_M[m] = order_M[m if m < kept else m - kept + num_here]
    last_expert = order_M[last] if last >= resident else -1
    final_expert = order_M[final] if num_here <= final < movable else -1
    lanes = lay_out(
        whole.packed,
        whole.size,
        sub_M,
        last_expert,
        final_expert,
        whole.link_free_s,
        whole.roundtrip_s,
        whole.gpu_call_s,
        whole.unit_s,
        2.0,
    )
    found, bound, nodes = search(lanes, best, sub_x_M, max_nodes, 0)
    if found < best:
        best = found
        for m in range(movable):
            best_x_M[m] = (m == last and last >= resident) or (m == final and final >= num_here)
        for m in range(len(sub_M)):
            best_x_M[m if m < kept else m - kept + num_here] = sub_x_M[m]
    return best, bound, nodes


@compiled
def search_parts(
    whole: Whole, order_M: IntArray, best: float, best_x_M: Bits, max_nodes: int
) -> tuple[float, float, int]:
    """As `search`, split by the last expert in flight on the GPU, and where that leaves a gap by the last one fetched.

    Then the GPU cannot end before those have arrived and run, which the four lanes alone do not see.
    """
    movable = len(order_M)
    bound, nodes = best, 0
    for last in range(whole.resident - 1, whole.num_here):
        if nodes > max_nodes:
            return best, -np.inf, nodes
        limit = min(max_nodes - nodes, first_nodes(movable))
        best, part_bound, used = search_part(whole, order_M, last, movable, best, best_x_M, limit)
        nodes += used
        if part_bound < best and movable - whole.num_here > MAX_FINALS:
            best, again_bound, used = search_part(whole, order_M, last, movable, best, best_x_M, max_nodes - nodes)
            nodes += used
            part_bound = max(part_bound, again_bound)
        elif part_bound < best and nodes <= max_nodes:
            split_bound = best
            for final in range(movable - 1, whole.num_here - 2, -1):
                if nodes > max_nodes:
                    split_bound = part_bound
                    break
                best, final_bound, used = search_part(whole, order_M, last, final, best, best_x_M, max_nodes - nodes)
                nodes += used
                split_bound = min(split_bound, final_bound)
            part_bound = max(part_bound, split_bound)
        bound = min(bound, part_bound)
    return best, min(bound, best), nodes


@compiled
def start_from(lanes: Lanes, order_M: IntArray, start_N: Bits, best: float, best_x_M: Bits) -> float:
    """The better of the choice so far and `start_N`; updates `best_x_M`, returns its objective."""
    x_M = np.empty(len(order_M), np.int8)
    for m in range(len(order_M)):
        x_M[m] = start_N[order_M[m]] != 0
    found = objective(lanes, x_M)
    if found < best:
        assign(x_M, best_x_M)
    return min(found, best)


@compiled
def devices(size: int, order_M: IntArray, num_here: int, x_M: Bits) -> Bits:
    """The choice int8 [N] (problem.Device) of the movable experts' `x_M`; all others run on the CPU."""
    choice_N = np.zeros(size, np.int8)
    for m in range(len(order_M)):
        if x_M[m] == 1:
            choice_N[order_M[m]] = 1 if m < num_here else 2
    return choice_N


@compiled
def leave_gpu_idle(
    packed: FloatArray, size: int, roundtrip_s: float, choice_N: Bits, best_s: float, bound_s: float
) -> tuple[float, float]:
    """Put everything on the CPU where that is no worse: the one choice without the GPU's call.

    The bound before held for all choices with the call, so that the lower of it and this choice holds for all. Updates
    `choice_N`; returns objective and bound.
    """
    all_cpu_s = 0.0
    for i in range(size):
        all_cpu_s += packed[size + i]
    if size > 0:
        all_cpu_s += roundtrip_s
    if all_cpu_s <= best_s:
        for i in range(size):
            choice_N[i] = 0
    return min(best_s, all_cpu_s), min(bound_s, all_cpu_s)


@compiled
def solve_packed(
    packed: FloatArray,
    size: int,
    link_free_s: float,
    roundtrip_s: float,
    gpu_call_s: float,
    start_N: Bits,
    max_nodes: int,
) -> tuple[Bits, float, float, int]:
    """Choice int8 [N] (problem.Device), objective and lower bound in seconds, nodes searched.

    `start_N`: a feasible choice to start from, or of length 0. The search counts the GPU's call in every choice.
    """
    order_M = movable_experts(packed, size, len(packed) - 5 * size)
    lanes = lay_out(packed, size, order_M, -1, -1, link_free_s, roundtrip_s, gpu_call_s, 1.0, np.inf)
    best_x_M = np.zeros(len(order_M), np.int8)
    best = simple_choice(lanes, best_x_M)
    if len(start_N) > 0:
        best = start_from(lanes, order_M, start_N, best, best_x_M)
    unit_s = longest_makespan(lanes, best)
    bound_s, nodes = best, 0
    if unit_s > 0:  # otherwise nothing takes time
        lanes = lay_out(packed, size, order_M, -1, -1, link_free_s, roundtrip_s, gpu_call_s, unit_s, 2.0)
        best = objective(lanes, best_x_M)
        moves = max(2, min(max_nodes, MOST_TRIALS) // (1 + len(order_M) ** 2))
        best, bound, nodes = search(lanes, best, best_x_M, min(max_nodes, first_nodes(len(order_M))), moves)
        if bound < best:
            best = polish(lanes, best, best_x_M, moves)
            resident = 0
            while resident < lanes.num_here and lanes.table[READY, resident] == 0:
                resident += 1
            whole = Whole(packed, size, resident, lanes.num_here, link_free_s, roundtrip_s, gpu_call_s, unit_s)
            best, parts_bound, used = search_parts(whole, order_M, best, best_x_M, max_nodes - nodes)
            bound, nodes = max(bound, parts_bound), nodes + used
        best, bound_s = best * unit_s, bound * unit_s
    choice_N = devices(size, order_M, lanes.num_here, best_x_M)
    if gpu_call_s > 0:
        best, bound_s = leave_gpu_idle(packed, size, roundtrip_s, choice_N, best, bound_s)
    return choice_N, best, bound_s, nodes
