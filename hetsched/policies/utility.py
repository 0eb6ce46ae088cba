"""hetsched: one number, the seconds an expert's residency is expected to save, for fetch, prefetch and evict.

    utility(e) = horizon * P(demanded in a step) * (cpu_s - gpu_s)

P comes from a forecaster, learned online. Dispatch of the active experts is the integer program of problem.py, with
fetches priced by that number; while the link is idle, the best absent expert replaces the worst resident one when the
difference pays for the copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dispatch import is_settled, pose, to_ops
from ..plugins import load
from ..policy import Decision, Machine, View
from ..residency import ABSENT
from ..solver import Status, solve_guarded
from ..types import Demand, ExpertId, Fetch, FloatArray, Outcome
from .misses import misses_on_cpu
from .static import most_frequent


class Utility:
    """hetsched's own policy.

    `horizon_steps`: steps over which a residency is credited. `hysteresis`: by how many copy times the newcomer must be
    better. `backlog_s`: no prefetch is issued while copies for longer than this wait (None: half a copy).
    """

    name = "hetsched"

    def __init__(
        self,
        forecaster: Any = "ewma",
        horizon_steps: float = 32.0,
        hysteresis: float = 0.05,
        backlog_s: float | None = None,
    ) -> None:
        found = load("hetsched.forecasters", forecaster)
        self.forecaster = found() if isinstance(found, type) else found
        self.horizon_steps = horizon_steps
        self.hysteresis = hysteresis
        self.backlog_s = backlog_s

    def start(self, machine: Machine) -> Sequence[ExpertId]:
        """Fill every slot, by calibration frequency if there is one."""
        self._machine = machine
        self.forecaster.start(machine.geometry, machine.frequency_LE)
        if not machine.cost.has_gpu:
            return ()
        self._copy_s = machine.cost.copy_s()
        saved_s = float(machine.cost.cpu_s(1) - machine.cost.gpu_s(1))
        self._credit_s = self.horizon_steps * max(saved_s, 0.0)
        return most_frequent(machine)

    def plan(self, demand: Demand, view: View) -> Decision:
        """Solve the layer's dispatch, then use an idle link for one swap."""
        self.forecaster.observe(demand)
        if not self._machine.cost.has_gpu:
            return misses_on_cpu(demand, view, self._machine)
        utility_LE = self.utility_LE()
        place = self._cheapest_place(demand, view, utility_LE.reshape(-1))
        if is_settled(demand, view, self._machine, utility_LE, place[1] if place else None):
            ops, makespan_s, _ = misses_on_cpu(demand, view, self._machine)
            status = Status.OPTIMAL
        else:
            posed = pose(demand, view, self._machine, utility_LE)
            found = solve_guarded(self._machine.solver, posed.problem)
            ops = tuple(to_ops(demand, posed, found.choice_N, self._machine.geometry.num_experts))
            makespan_s, status = posed.problem.makespan_s(found.choice_N), found.status
        if type(ops[0]) is not Fetch:  # a fetch needs the link now
            swap = self._swap(view, utility_LE.reshape(-1), place)
            ops = (*ops, swap) if swap else ops
        return Decision(ops, makespan_s, status.name)

    def observe(self, outcome: Outcome) -> None:
        """The demand was learned in plan(); the times are the cost model's business."""

    def utility_LE(self) -> FloatArray:
        """Seconds saved over the horizon by each expert's residency, float [L, E]."""
        utility_LE: FloatArray = np.minimum(self.forecaster.demand_LE(), 1.0) * self._credit_s
        return utility_LE

    def _swap(self, view: View, flat_utility: FloatArray, place: tuple[ExpertId | None, float] | None) -> Fetch | None:
        """The best absent expert for the worst resident one, if that pays and the link is idle."""
        if place is None or not self._link_is_idle(view):
            return None
        victim, price_s = place
        absent = np.where(view.residency.state_LE.reshape(-1) == ABSENT, flat_utility, -1.0)
        best = int(absent.argmax())
        worth_s = float(absent[best]) - price_s
        if worth_s <= self.hysteresis * self._copy_s:
            return None
        return Fetch(self._id(best), victim, prefetch=True, cause=f"prefetch: saves {worth_s * 1e6:.0f} µs")

    def _cheapest_place(
        self, demand: Demand, view: View, flat_utility: FloatArray
    ) -> tuple[ExpertId | None, float] | None:
        """The victim that is missed least and its utility; a free slot if there is one; None if nothing may go."""
        if view.residency.free_slots > 0:
            return None, 0.0
        residents = view.residency.evictable(demand.layer, demand.active_N)
        if not len(residents):
            return None
        worst = int(residents[flat_utility[residents].argmin()])
        return self._id(worst), float(flat_utility[worst])

    def _link_is_idle(self, view: View) -> bool:
        backlog_s = max((remaining_s for _, remaining_s in view.link.in_flight), default=view.link.free_s)
        limit_s = self._copy_s / 2 if self.backlog_s is None else self.backlog_s
        return self._machine.num_slots > 0 and backlog_s <= limit_s

    def _id(self, flat: int) -> ExpertId:
        return ExpertId(*divmod(flat, self._machine.geometry.num_experts))
