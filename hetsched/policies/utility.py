"""hetsched: one number, the seconds an expert's residency is expected to save, for fetch, prefetch and evict.

    utility(e) = saving_s * (P(demanded at its layer's next visit) + later * P(demanded in a step))

Both P come from a forecaster, learned online. `later` stands for all visits after the next one: small, because by then
the slot will have been reconsidered many times. Dispatch of the active experts is the integer program of problem.py;
a fetch costs its victim's utility and the link's price, which is what copies have been gaining of late. While the lanes
work, absent experts replace resident ones as long as that gains and the link keeps up. Seconds are those of the board's
tables, which follow what is measured; a lane or link that nothing was measured of for long is used once to know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..jit import announced
from ..plugins import instance
from ..policy import Kernelled, Setting, Traits
from ..types import ExpertId, Float32Array, FloatArray
from .static import most_frequent

if TYPE_CHECKING:
    from .compiled import PolicyKernels


class Foreseen(NamedTuple):
    """What a decision rests on: utilities in seconds, P(demanded next) and P(demanded in a step), all [L, E].

    `link_price_s`: what a copy has been gaining of late; `cpu_share`: of a layer, in which the CPU lane works.
    """

    utility_LE: FloatArray
    next_LE: FloatArray
    demand_LE: FloatArray
    link_price_s: float
    cpu_share: float


class Utility(Kernelled):
    """hetsched's own policy.

    `forecaster`: name, class or object of the one that it asks where a setting has none.
    `later`: weight of demand after the next visit. `hysteresis`: by what share of a hit's saving the newcomer must be
    better.
    `backlog_layers`: no prefetch is issued while copies for longer than so many layers wait.
    `pace`: where looking ahead costs more than it gains, it is done in one of at most so many steps; 1: in every one.
    """

    name = "hetsched"
    traits = Traits(family="integer program", uses_solver=True, uses_forecaster=True, watched=True, is_paced=True)

    def __init__(
        self,
        forecaster: Any = "transition",
        later: float = 0.25,
        hysteresis: float = 0.08,
        backlog_layers: float = 1.0,
        pace: int = 64,
    ) -> None:
        self.forecaster = instance("hetsched.forecasters", forecaster)
        self.later = later
        self.hysteresis = hysteresis
        self.backlog_layers = backlog_layers
        self.pace = pace

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """Fill every slot, by calibration frequency if there is one."""
        from .learning import learning_of
        from .utility_kernels import empty_state
        from .utility_steps import MOST_SWAPS, NOW, first_numbers

        cost, shape = setting.cost, setting.geometry
        with announced("hetsched: compiling hetsched's forecaster once, some seconds ..."):
            self._asked = setting.forecaster_or(self.forecaster)
            self._asked.start(shape, setting.frequency_LE, setting.history)
        known = empty_state(shape.num_layers, shape.num_experts)
        tuning = self.later, self.hysteresis, self.backlog_layers
        reach = shape.num_layers if self._asked.reach is None else self._asked.reach
        numbers = first_numbers(cost, shape.top_k, tuning, reach)
        self._learning, self._stale_L = learning_of(self._asked), known.stale_L
        forecast = self._learning.next_LE, self._learning.demand_LE
        self._forecast = forecast
        self._own = (numbers, *known, np.zeros((3, MOST_SWAPS)), np.zeros(NOW), *forecast)
        return most_frequent(setting) if cost.has_gpu else ()

    def resized(self, num_slots: int) -> FloatArray:
        """Each expert's utility for one token, in hits."""
        next_LE, demand_LE = self._forecast
        utility_LE: FloatArray = np.minimum(next_LE, 1.0) + self.later * np.minimum(demand_LE, 1.0)
        return utility_LE

    def foreseen(self) -> Foreseen:
        """What it goes by now; for whoever explains a decision."""
        from .utility_steps import CPU_SHARE, LINK_PRICE_S

        numbers, utility_LE = self._own[0], self._own[1]
        next_LE, demand_LE = self._forecast
        shares = float(numbers[LINK_PRICE_S]), float(numbers[CPU_SHARE])
        return Foreseen(utility_LE.copy(), next_LE.copy(), demand_LE.copy(), *shares)

    def kernels(self) -> PolicyKernels:
        """The layer's integer program, by the solver unless one token's answer is settled without; then swaps."""
        from .utility_steps import KERNELS

        taught = self._learning.taught(KERNELS._replace(own=self._own))
        return taught if taught.foresee is None else taught._replace(foresee=self._foresee)

    def _foresee(self, draft_DLE: Float32Array) -> None:
        """All forecasts have changed, and nothing is left of the last layer."""
        from .utility_steps import LEFT_S

        assert self._learning.foresee is not None
        self._learning.foresee(draft_DLE)
        self._stale_L[:], self._own[0][LEFT_S] = True, 0.0
