"""A policy kept to the experts that exist, for models whose layers have different numbers of them."""

from __future__ import annotations

from collections.abc import Sequence

from ..policy import Decision, Policy, Setting, View, asks_solver
from ..types import Demand, ExpertId, Fetch


class ExistingExperts:
    """Any policy, without the experts that are only there because residency is a rectangle [L, E].

    Such experts get no tokens, so no layer's decision names them; what begins resident and what is prefetched might.
    """

    def __init__(self, policy: Policy) -> None:
        self.name = policy.name
        self.uses_weights = bool(getattr(policy, "uses_weights", False))
        self.uses_solver = asks_solver(policy)
        self._policy = policy
        self._experts_L: tuple[int, ...] = ()

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The policy's choice, less what does not exist."""
        shape = setting.geometry
        self._experts_L = shape.experts_L or (shape.num_experts,) * shape.num_layers
        return [expert for expert in self._policy.start(setting) if self._exists(expert)]

    def plan(self, demand: Demand, view: View) -> Decision:
        """The policy's own decision."""
        return self._policy.plan(demand, view)

    def observe(self, demand: Demand) -> None:
        """Passed on."""
        self._policy.observe(demand)

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """The policy's copies, less those of what does not exist."""
        return [fetch for fetch in self._policy.prefetch(demand, view) if self._exists(fetch.expert)]

    def _exists(self, expert: ExpertId) -> bool:
        return expert.expert < self._experts_L[expert.layer]
