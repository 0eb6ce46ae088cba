"""Deciders: a policy, compiled or in Python, as the scheduler calls it. Both end in the same contract on the board."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from ..faults import Fault
from ..types import Demand, Fetch, LinkState, Plan

Excuse: TypeAlias = Callable[[Fault, Exception], None]  # counts what a plug-in raises, or raises it again


class Decider(Protocol):
    """One layer, decided. The board holds the demand and the link from then on, and the residency that follows.

    Whatever is wrong with a decision raises PlanError or ResidencyError, and nothing has changed then.
    """

    def decide(self, demand: Demand, link: LinkState) -> Plan:
        """Note arrivals, count hits, decide, and let it happen."""
        ...

    def learn(self, demand: Demand) -> None:
        """Learn the layer's demand."""
        ...

    def look_ahead(self, demand: Demand, link: LinkState, chosen: list[Fetch]) -> float:
        """Note arrivals, learn, choose copies, and let them begin: `chosen`, also where a later one raises.

        Returns the seconds that they are expected to save; 0 where the policy does not say.
        """
        ...
