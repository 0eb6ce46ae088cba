"""all-cpu: every miss on the CPU, nothing is copied (llama.cpp's and KTransformers' way with missing experts)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hetsched.dispatch.problem import DispatchProblem

from .rule import Rule


class AllCpu(Rule):
    """The incumbent itself."""

    name = "all-cpu"

    def choose(self, problem: DispatchProblem) -> npt.NDArray[np.int8]:
        """Residents on the GPU, all others on the CPU."""
        return problem.incumbent()
