"""The methods of a policy that supplies kernels: for whoever wraps policies, overrides one, or looks at one alone."""

from __future__ import annotations

from collections.abc import Sequence

from ..board import SLOTS, new_board, open_board
from ..board.seconds import Seconds
from ..faults import Fault
from ..policies.compiled import PolicyKernels
from ..policy import Decision, Kernelled, Policy, Setting, View
from ..residency import Residency
from ..types import Demand, Fetch, LinkState
from .compiled import CompiledDecider
from .views import Views


class Methods:
    """plan, observe and prefetch of a policy that supplies kernels: what Kernelled.in_python is.

    It decides on a board of its own, which it brings up to date from what it is shown; nothing else changes. The solver
    is the setting's, asked in Python under its guard.
    """

    def __init__(self, kernels: PolicyKernels, setting: Setting) -> None:
        shape = setting.geometry
        arrays = new_board(shape.num_layers, shape.num_experts, setting.num_slots)
        self._board = open_board(*arrays)
        self._residency = Residency(shape.num_layers, shape.num_experts, setting.num_slots, self._board)
        self._views = Views(self._board)
        seconds = Seconds(setting.cost, self._board.machine)
        self._decider = CompiledDecider(kernels, None, setting.solver, seconds, arrays, self._views, _raise)

    def plan(self, demand: Demand, view: View) -> Decision:
        """One layer."""
        self._show(demand, view)
        plan = self._decider.decide(demand, view.link._replace(arrived=()))
        return Decision(plan.runs, plan.fetches, plan.evicts, plan.predicted_s, plan.solver_status)

    def observe(self, demand: Demand) -> None:
        """Learn one layer's demand."""
        self._views.tell(demand, LinkState())
        self._decider.learn(demand)

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """Copies for an idle link."""
        self._show(demand, view)
        chosen: list[Fetch] = []
        self._decider.choose(demand, chosen)
        return chosen

    def _show(self, demand: Demand, view: View) -> None:
        board = self._board
        board.state_F[:] = view.residency.state_LE.reshape(-1)
        board.slot_F[:] = view.residency.slot_LE.reshape(-1)
        board.at[SLOTS] = view.residency.num_slots
        self._residency.recount()
        self._views.tell(demand, view.link._replace(arrived=()))


def give_methods(policy: Policy, setting: Setting) -> None:
    """Let a policy that has been started with this setting be called by its methods; nothing where it has its own."""
    if isinstance(policy, Kernelled):
        policy.in_python = Methods(policy.kernels(), setting)


def _raise(fault: Fault, error: Exception) -> None:
    raise error
