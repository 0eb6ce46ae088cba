"""PythonDecider: a policy with plan, observe and prefetch, between the contract's compiled calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..board import COPIES, Arrays, new_board, open_board
from ..faults import Fault
from ..policy import Policy, View
from ..residency import Arrive, Residency
from ..types import Demand, Fetch, LinkState, Plan
from . import Excuse
from .views import PlanError, Views

T = TypeVar("T")


class PythonDecider:
    """Asks the policy, writes its answer on the board, and has it checked and applied there."""

    def __init__(self, policy: Policy, residency: Residency, arrays: Arrays, views: Views, excuse: Excuse) -> None:
        from ..board.contract import entries  # numba takes long to import

        self._policy = policy
        self._residency = residency
        self._arrays = arrays
        self._board = open_board(*arrays)
        self._views = views
        self._excuse = excuse
        self._contract = entries
        nothing = new_board(1, 1, 0)  # compiled here (or read from disk), not in the first step
        entries.begin(*nothing)
        entries.plan(*nothing)
        entries.copies(*nothing)

    def decide(self, demand: Demand, link: LinkState) -> Plan:
        """By the policy's `plan`, where any expert is active."""
        self._views.tell(demand, link)
        self._contract.begin(*self._arrays)
        if not demand.active:
            return Plan(demand, ())
        decision = self._asked(self._policy.plan, demand, View(self._residency.shown, link))
        self._views.write(decision)
        self._views.refuse(self._contract.plan(*self._arrays), self._policy.name)
        return Plan(demand, *decision[:4], solver_status=decision.solver_status)

    def learn(self, demand: Demand) -> None:
        """By the policy's `observe`."""
        self._views.count(demand)
        try:
            self._asked(self._policy.observe, demand)
        except Exception as error:  # any plug-in may fail in any way; this layer is not learned
            self._excuse(Fault.LEARNING, error)

    def look_ahead(self, demand: Demand, link: LinkState, chosen: list[Fetch]) -> float:
        """By its `prefetch`, which does not say what its copies save."""
        self._views.tell_link(link)
        for expert in link.arrived:
            if self._residency.is_copying(expert):
                self._residency.apply(Arrive(expert))
        self.learn(demand)
        found = list(self._asked(self._policy.prefetch, demand, View(self._residency.shown, link)))
        self._views.write_copies(found)
        if found:
            wrong = self._contract.copies(*self._arrays)
            chosen += found[: self._board.at[COPIES]]
            self._views.refuse(wrong, self._policy.name)
        return 0.0

    def _asked(self, method: Callable[..., T], demand: Demand, *shown: View) -> T:
        """The policy's answer. Its demand stays as it was; that it wrote into the lists raises PlanError."""
        given = demand.active.copy(), demand.tokens.copy()
        try:
            answer = method(demand, *shown)
        finally:
            is_same = (demand.active, demand.tokens) == given
            demand.active, demand.tokens = given
        if not is_same:
            raise PlanError(f"{self._policy.name} changed the demand that it was given")
        return answer
