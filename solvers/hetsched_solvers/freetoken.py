"""ratio-freetoken: a fixed share of the misses is fetched, as the bandwidths of PCIe and CPU relate (FreeToken).

Share = pcie / (pcie + cpu) with experts per second as the unit: 1 / copy_s against 1 / cpu_s.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hetsched.dispatch.problem import Device, DispatchProblem

from .rule import Rule, fetchable, keep_here, missing


class FreeToken(Rule):
    """Knows bandwidths, not loads: which misses are fetched follows their order."""

    name = "ratio-freetoken"

    def choose(self, problem: DispatchProblem) -> npt.NDArray[np.int8]:
        """The share, rounded to whole experts, of the misses in the order of the experts."""
        choice_N = keep_here(problem)
        may = sorted(fetchable(problem))
        if not may:
            return choice_N
        copy_s, cpu_s = float(problem.copy_s_N[may].mean()), float(problem.cpu_s_N[may].mean())
        share = cpu_s / (cpu_s + copy_s) if cpu_s + copy_s > 0 else 0.0
        count = min(round(share * len(missing(problem))), len(problem.victim_price_V))
        choice_N[may[:count]] = Device.FETCH
        return choice_N
