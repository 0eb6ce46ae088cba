"""Policy protocol: what a strategy is told and what it answers. One policy a file, in hetsched/policies.

Shapes: L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from .cost import CostModel
from .geometry import MoEGeometry
from .residency import Residency
from .solver import Solver
from .types import Demand, ExpertId, FloatArray, LinkState, Op, Outcome


@dataclass(frozen=True)
class Machine:
    """What a policy is built for.

    `num_slots`: experts that fit on the GPU. `frequency_LE`: tokens per expert in a calibration trace, or None.
    """

    geometry: MoEGeometry
    cost: CostModel
    num_slots: int
    solver: Solver
    frequency_LE: FloatArray | None = None


class View(NamedTuple):
    """What a policy sees at a decision: residency (read only) and the copy engine."""

    residency: Residency
    link: LinkState


class Decision(NamedTuple):
    """A policy's answer: ordered ops, the makespan it expects, and the solver's status if one was asked."""

    ops: tuple[Op, ...]
    predicted_s: float
    solver_status: str = ""


@runtime_checkable
class Policy(Protocol):
    """A strategy for residency and misses. Its constructor takes tuning only, all with defaults.

    Contract: every active expert has exactly one Run; a GPU Run's expert is resident, in flight, or fetched in the
    same decision; no victim is pinned, in flight, or active in this layer.
    """

    name: str

    def start(self, machine: Machine) -> Sequence[ExpertId]:
        """Begin anew; returns what should be resident before the first step, most wanted first."""
        ...

    def plan(self, demand: Demand, view: View) -> Decision:
        """Decide one layer. Must not change what it is given."""
        ...

    def observe(self, outcome: Outcome) -> None:
        """Learn from what happened."""
        ...
