"""strata: a shipped profile's placement, then swaps whose measured gain exceeds their upload, a quarter of the time.

Strata (2026). Misses run on the CPU, a small set share of them over PCIe. A swap has to gain more than its upload
takes, by what was measured, and uploads take at most 25 % of token time.

Ours, where the rule leaves it open. Measured: seconds of an expert on each lane are running means over executed decode
steps, the cost model's until there are some; uses are a running mean of demand, and count for as many tokens as it
spans. The shipped profile is the calibration frequency. The set share is owed and paid over the run, with the layer's
most used miss; what comes over PCIe needs a slot here, and takes that of the least used resident.

Shapes: F all experts flat (layer * E + expert).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..forecast import shares_LE
from ..policy import Kernelled, Setting, Traits
from ..types import ExpertId
from .compiled import PolicyKernels
from .static import most_frequent


class Strata(Kernelled):
    """`horizon`: tokens that a swap's gain is counted over. `budget`: share of token time that uploads may take.

    `pcie_share`: of misses, fetched.
    """

    name = "strata"
    traits = Traits(family="dynamic placement")

    def __init__(self, horizon: float = 128.0, budget: float = 0.25, pcie_share: float = 0.0625) -> None:
        if not horizon >= 1.0 or not 0.0 <= budget <= 1.0 or not 0.0 <= pcie_share <= 1.0:
            raise InputError(
                f"strata's horizon {horizon} must be at least 1 token, its budget {budget} and pcie_share {pcie_share} "
                "0 to 1"
            )
        self.horizon, self.budget, self.pcie_share = horizon, budget, pcie_share

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The most frequent experts; means begin as their shares."""
        from .strata_kernels import first_numbers

        mean_F = shares_LE(setting.geometry, setting.frequency_LE).reshape(-1).copy()
        self._own = mean_F, first_numbers(setting.cost, self.horizon, self.budget, self.pcie_share), np.zeros(2)
        return most_frequent(setting)

    def kernels(self) -> PolicyKernels:
        """Misses mostly on the CPU, and swaps that were measured to pay."""
        from .strata_kernels import KERNELS

        return KERNELS._replace(own=self._own)
