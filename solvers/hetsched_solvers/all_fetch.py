"""all-fetch: every miss is copied to the GPU (on-demand loading, as Mixtral-Offloading and accelerate do)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hetsched.dispatch.problem import Device, DispatchProblem

from .rule import Rule, fetchable


class AllFetch(Rule):
    """The GPU computes everything that there is a slot for; the CPU gets what cannot come, least work last."""

    name = "all-fetch"

    def choose(self, problem: DispatchProblem) -> npt.NDArray[np.int8]:
        """All that is here on the GPU, as many fetches as there are victims, most work first."""
        choice_N = np.where(np.isfinite(problem.ready_s_N), Device.GPU, Device.CPU).astype(np.int8)
        choice_N[fetchable(problem)[: len(problem.victim_price_V)]] = Device.FETCH
        return choice_N
