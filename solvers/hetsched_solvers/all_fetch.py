"""all-fetch: every miss is copied to the GPU (on-demand loading, as Mixtral-Offloading and accelerate do)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hetsched.jit import compiled_lean
from hetsched.types import FloatArray, IntArray

from .rule_kernels import FETCH, GPU, KernelRule, answering, may_fetch, put


@compiled_lean
def all_to_gpu(
    packed: FloatArray,
    size: int,
    link_free_s: float,
    roundtrip_s: float,
    gpu_call_s: float,
    order_N: IntArray,
    choice_N: npt.NDArray[np.int8],
) -> None:
    """All that is here on the GPU, as many fetches as there are victims, most work first."""
    for i in range(size):
        put(order_N, i, i, packed[size : 2 * size])
        if packed[4 * size + i] < np.inf:
            choice_N[i] = GPU
    victims = len(packed) - 5 * size
    for i in order_N:
        if victims and may_fetch(packed, size, i):
            choice_N[i] = FETCH
            victims -= 1


class AllFetch(KernelRule):
    """The GPU computes everything that there is a slot for; the CPU gets what cannot come, least work last."""

    name = "all-fetch"
    answer = staticmethod(answering(__name__, all_to_gpu))
