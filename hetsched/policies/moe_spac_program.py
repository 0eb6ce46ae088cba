"""The integer program of moe-spac, as kernels: how far each layer's boundary between hot and cold moves.

The program is stated in moe_spac.py. Solved exactly: what a layer costs for each of its few choices is tabulated, and a
dynamic program over the layers chooses among them with as many places as copies.

Shapes: L layers, E experts of a layer, F all experts flat (layer * E + expert), M steps remembered, D experts that a
boundary may pass at once, O = (D + 1) * (D + 1) choices of a layer (copies * (D + 1) + leavers), P balances of places.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..board import ABSENT, COPY_S, FREE, GPU_CALL_S, RESIDENT, Board
from ..jit import compiled_lean
from ..types import FloatArray, IntArray
from .moe_spac_kernels import FROZEN, Levels

COPIES, LEAVERS = range(2)  # rows of `moves_2L`
NOBODY = -1


class Program(NamedTuple):
    """What the program is made of, and its answer.

    `gpu_s_MF`, `cpu_s_MF`: seconds of what a step demanded on either lane, 0 of what it did not. `start_s_M`: before
    the CPU's first. `seen`: [steps remembered so far]. `horizon`: steps that a copy has to pay in. `stride`: D.
    `new_LD`, `old_LD`: of each layer who would be copied, and who would leave, in order, then NOBODY. `cost_s_LO`,
    `best_s_2P`, `back_LP`: tables. `moves_2L`: the answer, copies and leavers of each layer.
    """

    gpu_s_MF: FloatArray
    cpu_s_MF: FloatArray
    start_s_M: FloatArray
    seen: IntArray
    horizon: float
    stride: int
    new_LD: IntArray
    old_LD: IntArray
    cost_s_LO: FloatArray
    best_s_2P: FloatArray
    back_LP: IntArray
    moves_2L: IntArray


def new_program(layers: int, experts: int, window: int, horizon: float, stride: int) -> Program:
    """Nothing was seen yet."""
    balances, choices = 2 * layers * stride + 1, (stride + 1) ** 2
    return Program(
        gpu_s_MF=np.zeros((window, layers * experts)),
        cpu_s_MF=np.zeros((window, layers * experts)),
        start_s_M=np.zeros(window),
        seen=np.zeros(1, np.int64),
        horizon=horizon,
        stride=stride,
        new_LD=np.full((layers, stride), NOBODY),
        old_LD=np.full((layers, stride), NOBODY),
        cost_s_LO=np.zeros((layers, choices)),
        best_s_2P=np.zeros((2, balances)),
        back_LP=np.zeros((layers, balances), np.int64),
        moves_2L=np.zeros((2, layers), np.int64),
    )


@compiled_lean
def solve(board: Board, levels: Levels, program: Program) -> float:
    """The least cost in seconds, over the horizon, and into `moves_2L` what it takes; 0 where nobody can be copied."""
    program.moves_2L[:] = 0
    if not list_candidates(board, levels, program) or not program.seen[0]:
        return 0.0
    tabulate(board, levels, program)
    return balance(board.at[FREE], program)


@compiled_lean
def list_candidates(board: Board, levels: Levels, program: Program) -> int:
    """List who would be copied and who would leave, by level and then by what the CPU needs for them; how many copies.

    Only experts of level 1 and above are copied.
    """
    layers, experts, found = len(program.new_LD), len(levels.level_F) // len(program.new_LD), 0
    program.new_LD[:], program.old_LD[:] = NOBODY, NOBODY
    for l in range(layers):
        for f in range(l * experts, (l + 1) * experts):
            if board.state_F[f] == ABSENT and levels.level_F[f] >= 1:
                _insert(levels, program, program.new_LD[l], f, -1)
            elif board.state_F[f] == RESIDENT:
                _insert(levels, program, program.old_LD[l], f, 1)
        for d in range(program.stride):
            found += program.new_LD[l, d] != NOBODY
    return found


@compiled_lean
def _insert(levels: Levels, program: Program, order_D: IntArray, f: int, sign: int) -> None:
    """Put an expert among the first of a layer: ascending for sign 1, descending for -1, behind its equals."""
    if order_D[-1] != NOBODY and not _is_before(levels, program, f, order_D[-1], sign):
        return
    place = len(order_D) - 1
    while place > 0 and (order_D[place - 1] == NOBODY or _is_before(levels, program, f, order_D[place - 1], sign)):
        order_D[place] = order_D[place - 1]
        place -= 1
    order_D[place] = f


@compiled_lean
def _is_before(levels: Levels, program: Program, f: int, other: int, sign: int) -> bool:
    by_level = sign * (levels.level_F[f] - levels.level_F[other])
    if by_level:
        return bool(by_level < 0)
    by_work_s = 0.0
    for m in range(len(program.cpu_s_MF)):
        by_work_s += program.cpu_s_MF[m, f] - program.cpu_s_MF[m, other]
    return bool(sign * by_work_s < 0.0)


@compiled_lean
def tabulate(board: Board, levels: Levels, program: Program) -> None:
    """The seconds of every choice of every layer, infinite where a copy were not of a higher level than a leaver."""
    known = min(program.seen[0], len(program.start_s_M))
    stride, copy_s = program.stride, board.machine[COPY_S]
    program.cost_s_LO[:] = 0.0
    for l in range(len(program.new_LD)):
        for m in range(known):
            _add_lanes(board, program, l, m, program.horizon / known)
        for copies in range(stride + 1):
            for leavers in range(stride + 1):
                o = copies * (stride + 1) + leavers
                program.cost_s_LO[l, o] += copies * copy_s
                if not _is_allowed(levels, program, l, copies, leavers):
                    program.cost_s_LO[l, o] = np.inf


@compiled_lean
def _is_allowed(levels: Levels, program: Program, l: int, copies: int, leavers: int) -> bool:
    new = program.new_LD[l, copies - 1] if copies else NOBODY
    old = program.old_LD[l, leavers - 1] if leavers else NOBODY
    if (copies and new == NOBODY) or (leavers and old == NOBODY):
        return False
    return bool(not copies or not leavers or levels.level_F[new] > levels.level_F[old])


@compiled_lean
def _add_lanes(board: Board, program: Program, l: int, m: int, weight: float) -> None:
    """Add the longer lane of layer l in remembered step m to each of its choices."""
    gpu_s, cpu_s, on_gpu, on_cpu = board.machine[GPU_CALL_S], program.start_s_M[m], 0, 0
    experts = program.gpu_s_MF.shape[1] // len(program.new_LD)
    for f in range(l * experts, (l + 1) * experts):
        if program.cpu_s_MF[m, f] > 0.0:
            if board.state_F[f] == ABSENT:
                cpu_s, on_cpu = cpu_s + program.cpu_s_MF[m, f], on_cpu + 1
            else:
                gpu_s, on_gpu = gpu_s + program.gpu_s_MF[m, f], on_gpu + 1
    for copies in range(program.stride + 1):
        if copies and program.new_LD[l, copies - 1] != NOBODY:
            f = program.new_LD[l, copies - 1]
            gpu_s, cpu_s = gpu_s + program.gpu_s_MF[m, f], cpu_s - program.cpu_s_MF[m, f]
            on_gpu, on_cpu = on_gpu + (program.cpu_s_MF[m, f] > 0.0), on_cpu - (program.cpu_s_MF[m, f] > 0.0)
        left_s, more_s, leaving = 0.0, 0.0, 0
        for leavers in range(program.stride + 1):
            if leavers and program.old_LD[l, leavers - 1] != NOBODY:
                f = program.old_LD[l, leavers - 1]
                left_s, more_s = left_s + program.gpu_s_MF[m, f], more_s + program.cpu_s_MF[m, f]
                leaving += program.cpu_s_MF[m, f] > 0.0
            gpu_end_s = gpu_s - left_s if on_gpu - leaving > 0 else 0.0
            cpu_end_s = cpu_s + more_s if on_cpu + leaving > 0 else 0.0
            o = copies * (program.stride + 1) + leavers
            program.cost_s_LO[l, o] += weight * max(gpu_end_s, cpu_end_s)


@compiled_lean
def balance(free: int, program: Program) -> float:
    """One choice for each layer, at the least cost: copies into free slots, or, where there are none, one leaver each.

    The state of the dynamic program is copies minus leavers so far. Of equals the fewest copies.
    """
    wanted = 0
    for l in range(len(program.new_LD)):
        for d in range(program.stride):
            wanted += program.new_LD[l, d] != NOBODY
    low, high = (0, min(free, wanted)) if free else (-wanted, wanted)
    best_s_2P, wide = program.best_s_2P, high - low + 1
    best_s_2P[0, :wide] = np.inf
    best_s_2P[0, -low] = 0.0
    for l in range(len(program.new_LD)):
        before, after = l % 2, (l + 1) % 2
        best_s_2P[after, :wide] = np.inf
        for p in range(wide):
            if best_s_2P[before, p] < np.inf:
                _extend(program, l, p, wide, free > 0)
    last, end = len(program.new_LD) % 2, -low
    for p in range(-low + 1, wide if free else 0):
        if best_s_2P[last, p] < best_s_2P[last, end]:
            end = p
    least_s, p = best_s_2P[last, end], end
    for l in range(len(program.new_LD) - 1, -1, -1):
        copies, leavers = divmod(program.back_LP[l, p], program.stride + 1)
        program.moves_2L[COPIES, l], program.moves_2L[LEAVERS, l] = copies, leavers
        p -= copies - leavers
    return float(least_s)


@compiled_lean
def _extend(program: Program, l: int, p: int, wide: int, are_free: bool) -> None:
    """Every choice of layer l, from a balance of places before it."""
    before, after = l % 2, (l + 1) % 2
    for copies in range(program.stride + 1):
        for leavers in range(1 if are_free else program.stride + 1):
            o, q = copies * (program.stride + 1) + leavers, p + copies - leavers
            if not 0 <= q < wide:
                continue
            cost_s = program.best_s_2P[before, p] + program.cost_s_LO[l, o]
            if cost_s < program.best_s_2P[after, q]:
                program.best_s_2P[after, q], program.back_LP[l, q] = cost_s, o


@compiled_lean
def mark(levels: Levels, program: Program) -> None:
    """Who is hot and who may leave, by the answer."""
    levels.hot_F[:] = 0
    levels.keep_F[:] = FROZEN
    for l in range(len(program.new_LD)):
        for d in range(program.moves_2L[COPIES, l]):
            levels.hot_F[program.new_LD[l, d]] = 1
        for d in range(program.moves_2L[LEAVERS, l]):
            f = program.old_LD[l, d]
            levels.keep_F[f] = levels.level_F[f]
