"""What a lane's call takes once and what each expert adds, from calls with experts too small to take time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from ..cpu_kernels import ExpertKernel, SwigluWeights
from .dense import Timer
from .table import round_s

EXPERTS = (1, 2, 4, 8)  # in one go
WIDTH = 64


class Calls(NamedTuple):
    """Seconds: a call of k experts takes `call_s` + k * `per_expert_s`, and what computing them takes."""

    call_s: float
    per_expert_s: float

    def within(self, one_s: float) -> Calls:
        """The same in proportion, where a whole call with one expert of some size took less: the machine was busy."""
        share = min(1.0, one_s / max(self.call_s + self.per_expert_s, 1e-12))
        return Calls(round_s(share * self.call_s), round_s(share * self.per_expert_s))


def measure_calls(
    kernel: ExpertKernel, timer: Timer, dtype: torch.dtype, budget_s: float, device: str = "cpu"
) -> Calls:
    """Experts of width 64, one token each, one after another as a lane computes them, 1, 2, 4 and 8 in one go.

    A kernel that wakes its threads or launches anew for every expert has all its cost in `per_expert_s`.
    """
    ones = torch.ones(2 * WIDTH, WIDTH, dtype=dtype, device=device)
    experts = [kernel.pack(SwigluWeights(ones.clone(), ones[:WIDTH].clone())) for _ in range(EXPERTS[-1])]

    def several(count: int) -> Callable[[int], object]:
        return lambda _: [kernel.swiglu(ones[:1], weights) for weights in experts[:count]]

    return fit_calls([timer(several(count), budget_s / len(EXPERTS)).median_s for count in EXPERTS])


def fit_calls(seconds: list[float]) -> Calls:
    """The line through the seconds of 1, 2, 4 and 8 experts with the least relative errors and no part below 0."""
    both_C2 = np.array([(1.0, count) for count in EXPERTS]) / np.array(seconds)[:, None]
    found = []
    for used in ([1.0, 1.0], [0.0, 1.0], [1.0, 0.0]):
        line = np.linalg.lstsq(both_C2 * used, np.ones(len(both_C2)), rcond=None)[0]
        if min(line) >= 0:
            found.append((float(((both_C2 @ line - 1.0) ** 2).sum()), *line.tolist()))
    _, call_s, per_expert_s = min(found)
    return Calls(round_s(call_s), round_s(per_expert_s))
