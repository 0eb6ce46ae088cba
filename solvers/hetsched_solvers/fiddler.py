"""rule-fiddler: each missing expert by itself, the CPU or a copy, whichever is shorter (Fiddler, arXiv 2402.07033).

The rule: run expert e on the CPU when cpu_s(n) < copy_s + gpu_s(n).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hetsched.jit import compiled_lean
from hetsched.types import FloatArray, IntArray

from .rule_kernels import FETCH, KernelRule, answering, keep_here, may_fetch


@compiled_lean
def shorter(
    packed: FloatArray,
    size: int,
    link_free_s: float,
    roundtrip_s: float,
    gpu_call_s: float,
    order_N: IntArray,
    choice_N: npt.NDArray[np.int8],
) -> None:
    """Fetch where that is shorter; with too few victims, where it saves most, among equals the most work first."""
    keep_here(packed, size, choice_N)
    found = 0
    for i in range(size):
        if not may_fetch(packed, size, i) or _saved_s(packed, size, i) <= 0:
            continue
        place = found
        while place > 0 and _is_worth_more(packed, size, i, order_N[place - 1]):
            order_N[place] = order_N[place - 1]
            place -= 1
        order_N[place] = i
        found += 1
    for place in range(min(found, len(packed) - 5 * size)):
        choice_N[order_N[place]] = FETCH


@compiled_lean
def _saved_s(packed: FloatArray, size: int, i: int) -> float:
    return float(packed[size + i] - packed[3 * size + i] - packed[i])


@compiled_lean
def _is_worth_more(packed: FloatArray, size: int, a: int, b: int) -> bool:
    saved_a, saved_b = _saved_s(packed, size, a), _saved_s(packed, size, b)
    return saved_a > saved_b or (saved_a == saved_b and bool(packed[size + a] > packed[size + b]))


class Fiddler(KernelRule):
    """Blind to lanes: two experts that share one do not know of each other."""

    name = "rule-fiddler"
    answer = staticmethod(answering(__name__, shorter))
