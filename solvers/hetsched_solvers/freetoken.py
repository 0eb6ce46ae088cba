"""ratio-freetoken: a fixed share of the misses is fetched, as the bandwidths of PCIe and CPU relate (FreeToken).

Share = pcie / (pcie + cpu) with experts per second as the unit: 1 / copy_s against 1 / cpu_s.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hetsched.jit import compiled_lean
from hetsched.types import FloatArray, IntArray

from .rule_kernels import FETCH, KernelRule, answering, is_missing, keep_here, may_fetch


@compiled_lean
def share(
    packed: FloatArray,
    size: int,
    link_free_s: float,
    roundtrip_s: float,
    gpu_call_s: float,
    order_N: IntArray,
    choice_N: npt.NDArray[np.int8],
) -> None:
    """The share, rounded to whole experts, of the misses in the order of the experts."""
    keep_here(packed, size, choice_N)
    missing, found, copies_s, cpu_s = 0, 0, 0.0, 0.0
    for i in range(size):
        missing += is_missing(packed, size, i)
        if may_fetch(packed, size, i):
            order_N[found] = i
            found += 1
            copies_s += packed[3 * size + i]
            cpu_s += packed[size + i]
    if not cpu_s + copies_s > 0:
        return
    count = round((cpu_s / found) / (cpu_s / found + copies_s / found) * missing)
    for place in range(min(count, found, len(packed) - 5 * size)):
        choice_N[order_N[place]] = FETCH


class FreeToken(KernelRule):
    """Knows bandwidths, not loads: which misses are fetched follows their order."""

    name = "ratio-freetoken"
    answer = staticmethod(answering(__name__, share))
