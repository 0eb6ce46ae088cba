"""Filling GPUs in order of worth: what `sort` is, and how the fast path turns worths into a placement.

Shapes: L layers, E experts, R tiers, G GPUs.
"""

from __future__ import annotations

import numpy as np

from hetsched.dispatch.placement import Placed
from hetsched.dispatch.problem import PlacementProblem
from hetsched.types import FloatArray


def fill(problem: PlacementProblem, worth_RLE: FloatArray) -> tuple[Placed, Placed]:
    """Place what is worth most a byte first, each expert in one tier, on the GPU with the least work of its layer.

    Returns tiers and GPUs, int8 [L, E]. Nothing of worth <= 0 is placed.
    A tier that was placed gives way to a larger one when that still fits and is worth more.
    """
    layers, experts = problem.current_LE.shape
    tier_LE, gpu_LE = np.full((layers, experts), -1, np.int8), np.full((layers, experts), -1, np.int8)
    free_G = problem.capacity_bytes_G.astype(np.int64).copy()
    share_GL = np.zeros((len(free_G), layers))  # worth placed so far: stands for the work of a layer on a GPU

    def place(tier: int, layer: int, expert: int, worth: float) -> None:
        num_bytes = int(problem.bytes_RLE[tier, layer, expert])
        old_tier, old_gpu = int(tier_LE[layer, expert]), int(gpu_LE[layer, expert])
        back = int(problem.bytes_RLE[old_tier, layer, expert]) if old_tier >= 0 else 0
        gpus = [old_gpu] if old_tier >= 0 else np.argsort(share_GL[:, layer], kind="stable").tolist()
        for gpu in gpus:
            if num_bytes - back <= free_G[gpu]:
                free_G[gpu] -= num_bytes - back
                share_GL[gpu, layer] += worth
                tier_LE[layer, expert], gpu_LE[layer, expert] = tier, gpu
                return

    density_RLE = worth_RLE / np.maximum(problem.bytes_RLE, 1)
    order = np.argsort(-density_RLE, axis=None, kind="stable")
    for flat in order[: int((density_RLE > 0).sum())].tolist():
        tier, layer, expert = np.unravel_index(flat, density_RLE.shape)
        placed = tier_LE[layer, expert]
        if placed < 0 or worth_RLE[tier, layer, expert] > worth_RLE[placed, layer, expert]:
            place(int(tier), int(layer), int(expert), float(worth_RLE[tier, layer, expert]))
        if len(problem.bytes_RLE) == 1 and free_G.max() < problem.bytes_RLE.min():
            break
    return tier_LE, gpu_LE
