"""greedy-dali: experts by descending load, each to the lane that finishes it first (DALI, arXiv 2602.03495)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hetsched.dispatch.problem import Device, DispatchProblem

from .rule import Rule


class Dali(Rule):
    """The paper's greedy 0-1 assignment, with its three inputs: GPU, CPU and transfer time of each expert."""

    name = "greedy-dali"

    def choose(self, problem: DispatchProblem) -> npt.NDArray[np.int8]:
        """One pass over the experts; every lane remembers until when it is busy."""
        choice_N = np.zeros(problem.size, np.int8)
        gpu_free, cpu_free, link_free = problem.gpu_call_s, problem.roundtrip_s, problem.link_free_s
        victims = len(problem.victim_price_V)
        for i in np.argsort(-problem.cpu_s_N, kind="stable").tolist():
            ready, copy = float(problem.ready_s_N[i]), float(problem.copy_s_N[i])
            here = np.isfinite(ready)
            arrival = ready if here else link_free + copy if victims else np.inf
            gpu_end = max(gpu_free, arrival) + problem.gpu_s_N[i]
            cpu_end = cpu_free + problem.cpu_s_N[i]
            if not gpu_end < cpu_end:
                cpu_free = cpu_end
                continue
            gpu_free = gpu_end
            choice_N[i] = Device.GPU if here else Device.FETCH
            if not here:
                link_free += copy
                victims -= 1
        return choice_N
