"""Least makespan of one layer by how many of its experts run on the GPU, and the convex function below it.

Shapes: N active experts of the layer, J = N + 1 numbers of experts on the GPU, H facets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..cost.model import CostModel
from ..types import FloatArray

BLENDS = 4  # weighted means of the two lanes that bound a layer of unequal experts


class Envelope(NamedTuple):
    """What the experts of one layer must at least take, in seconds, whatever the dispatch.

    With x experts on the GPU: >= max over facets of `intercept_s_H - slope_s_H * x`, slopes >= 0, and >= `least_s`.
    With share y_e of expert e on the GPU: >= `blend_s[b] - sum_e saving_s[b, e] * y_e` for each row b of BLENDS; no
    rows where all experts have the same number of tokens, since the facets then say more.
    `all_cpu_s`: makespan with nothing on the GPU. `shortest_gpu_s`: of one expert, 0 without any.
    """

    slope_s_H: FloatArray
    intercept_s_H: FloatArray
    least_s: float
    all_cpu_s: float
    shortest_gpu_s: float
    blend_s: FloatArray
    saving_s: FloatArray


def least_makespan_s(cost: CostModel, tokens_N: Sequence[int]) -> FloatArray:
    """For each j a time [J] that no partition with j experts on the GPU beats, all of them resident.

    The GPU lane takes at least its call (for j > 0) and its j shortest experts, the CPU lane at least its N - j
    shortest and the start for the fewest tokens that visit it: as many as the largest of N - j experts has. Exact for
    one token, and for equal experts where the round trip counts each token once.
    """
    gpu_s = _running(sorted(cost.each_gpu_s(tokens_N)))
    gpu_s[1:] += cost.gpu_call_s()
    cpu_s = _running(sorted(cost.each_cpu_s(tokens_N)))[::-1]
    start_s = np.array([*(cost.cpu_start_s(n) for n in sorted(tokens_N, reverse=True)), 0.0])
    least_s_J: FloatArray = np.maximum(gpu_s, cpu_s + start_s)
    return least_s_J


def envelope(cost: CostModel, tokens_N: Sequence[int]) -> Envelope:
    """The convex lower bound of a layer whose active experts have `tokens_N` tokens (each >= 1, in any order)."""
    least_s_J = least_makespan_s(cost, tokens_N)
    slope_s_H, intercept_s_H = _facets(least_s_J)
    equal = len(set(tokens_N)) <= 1
    blend_s, saving_s = _blends(cost, tokens_N, 0 if equal else BLENDS)
    shortest_s = min(cost.each_gpu_s(tokens_N), default=0.0)
    return Envelope(
        slope_s_H, intercept_s_H, float(least_s_J.min()), float(least_s_J[0]), shortest_s, blend_s, saving_s
    )


def _running(values: list[float]) -> FloatArray:
    return np.concatenate(([0.0], np.cumsum(values)))


def _facets(least_s_J: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slopes and intercepts of the lower convex hull from j = 0 to the least value; beyond it the bound is flat."""
    hull: list[int] = []
    for j in range(int(least_s_J.argmin()) + 1):
        while len(hull) > 1 and _is_above(least_s_J, hull[-2], hull[-1], j):
            hull.pop()
        hull.append(j)
    at = np.array(hull)
    slope_s_H = -np.diff(least_s_J[at]) / np.diff(at)
    intercept_s_H: FloatArray = least_s_J[at[:-1]] + slope_s_H * at[:-1]
    return slope_s_H, intercept_s_H


def _is_above(value_J: FloatArray, left: int, middle: int, right: int) -> bool:
    """Whether the middle point lies on or above the line between its neighbours, to rounding."""
    line = value_J[left] + (value_J[right] - value_J[left]) * (middle - left) / (right - left)
    return bool(value_J[middle] >= line - 1e-12 * value_J[left])


def _blends(cost: CostModel, tokens_N: Sequence[int], rows: int) -> tuple[FloatArray, FloatArray]:
    """Weighted means of both lanes' times: the makespan is at least w * GPU + (1 - w) * CPU for any w in 0..1.

    Each of N experts carries 1 / N of what its lane takes before the first: never more than that where any runs there.
    An expert whose share on the GPU would raise the mean counts as on the CPU, so that the bound never grows with y.
    """
    gpu_s_N, cpu_s_N = np.array(cost.each_gpu_s(tokens_N)), np.array(cost.each_cpu_s(tokens_N))
    start_s, count = min((cost.cpu_start_s(n) for n in tokens_N), default=0.0), max(len(tokens_N), 1)
    even = float(cpu_s_N.sum() / (cpu_s_N.sum() + gpu_s_N.sum())) if len(tokens_N) else 0.0
    weight_B = np.linspace(0.0, even, rows)[:, None]
    on_cpu_s_N, on_gpu_s_N = cpu_s_N + start_s / count, gpu_s_N + cost.gpu_call_s() / count
    saving_s = np.maximum((1 - weight_B) * on_cpu_s_N - weight_B * on_gpu_s_N, 0.0)
    return ((1 - weight_B) * on_cpu_s_N).sum(axis=1), saving_s
