"""list-hybrimoe: a list schedule over the three lanes (HybriMoE, arXiv 2504.05897).

GPU takes what is here, high load first; CPU takes what is missing, low load first; LINK takes what is missing, high
load first, for the GPU. A CPU that has run out of misses helps the GPU with its lowest loads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hetsched.dispatch.problem import Device, DispatchProblem

from .rule import Rule, keep_here, missing


class HybriMoe(Rule):
    """Event by event: whichever of CPU and LINK ends its next expert first, takes it."""

    name = "list-hybrimoe"

    def choose(self, problem: DispatchProblem) -> npt.NDArray[np.int8]:
        """The schedule's devices."""
        choice_N = keep_here(problem)
        gpu_s, cpu_s, copy_s = problem.gpu_s_N, problem.cpu_s_N, problem.copy_s_N
        waiting = missing(problem)  # descending load: LINK takes from the front, CPU from the back
        here = np.flatnonzero(choice_N == Device.GPU)
        gpu_end = problem.gpu_call_s + float(gpu_s[here].sum())
        cpu_end = problem.roundtrip_s + float(cpu_s[np.isfinite(problem.ready_s_N) & (choice_N == Device.CPU)].sum())
        link_end, victims = problem.link_free_s, len(problem.victim_price_V)
        while waiting:
            front, back = waiting[0], waiting[-1]
            fetched_end = max(gpu_end, link_end + copy_s[front]) + gpu_s[front] if victims else np.inf
            if fetched_end < cpu_end + cpu_s[back]:
                choice_N[waiting.pop(0)] = Device.FETCH
                link_end, gpu_end, victims = link_end + float(copy_s[front]), float(fetched_end), victims - 1
            else:
                cpu_end += float(cpu_s[waiting.pop()])
        for i in sorted(here.tolist(), key=lambda i: float(cpu_s[i])):
            if cpu_end + cpu_s[i] >= gpu_end:
                break
            choice_N[i] = Device.CPU
            cpu_end, gpu_end = cpu_end + float(cpu_s[i]), gpu_end - float(gpu_s[i])
        return choice_N
