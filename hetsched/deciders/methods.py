"""A compiled policy with the four methods of one in Python: for whoever wraps policies, or looks at one alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..board import new_board, open_board
from ..board.seconds import Seconds, machine_of
from ..faults import Fault
from ..policies.compiled import PolicyKernels
from ..policy import Decision, Kernelled, Setting, View, asks_solver, is_compiled
from ..residency import Residency
from ..types import Demand, ExpertId, Fetch, LinkState
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
        self._board.machine[:] = machine_of(setting.cost)
        self._residency = Residency(shape.num_layers, shape.num_experts, setting.num_slots, self._board)
        self._views = Views(self._board)
        self._decider = CompiledDecider(
            kernels, None, setting.solver, Seconds(setting.cost), arrays, self._views, _raise
        )

    def plan(self, demand: Demand, view: View) -> Decision:
        """One layer."""
        self._show(demand, view)
        return self._decider.decide(demand, view.link)

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
        self._residency.recount()
        self._views.tell(demand, view.link._replace(arrived=()))


class WithMethods:
    """Any policy, to be called by its four methods: for whoever wraps one."""

    def __init__(self, policy: Any) -> None:
        self.name = policy.name
        self.uses_weights = bool(getattr(policy, "uses_weights", False))
        self.uses_solver = asks_solver(policy)
        self._policy = policy

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The policy's own beginning."""
        initial: Sequence[ExpertId] = self._policy.start(setting)
        self._asked = Methods(self._policy.kernels(), setting) if is_compiled(self._policy) else self._policy
        if isinstance(self._policy, Kernelled) and not is_compiled(self._policy):
            self._policy.in_python = Methods(self._policy.kernels(), setting)
        return initial

    def plan(self, demand: Demand, view: View) -> Decision:
        """As the policy's."""
        decided: Decision = self._asked.plan(demand, view)
        return decided

    def observe(self, demand: Demand) -> None:
        """As the policy's."""
        self._asked.observe(demand)

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """As the policy's."""
        copies: Sequence[Fetch] = self._asked.prefetch(demand, view)
        return copies


def _raise(fault: Fault, error: Exception) -> None:
    raise error
