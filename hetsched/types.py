"""The words of the engine: what the router asked for, what was decided, what happened.

Shapes: L layers, E experts, N active experts of one layer. Units: seconds and bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]


class Phase(IntEnum):
    """Kind of step; the numbers are those of the routing-trace format."""

    PREFILL = 0
    DECODE = 1
    VERIFY = 2
    UNKNOWN = 255


class Lane(Enum):
    """The three things of a machine that work in parallel."""

    GPU = "gpu"
    LINK = "link"
    CPU = "cpu"


class ExpertId(NamedTuple):
    """One routed expert of one layer."""

    layer: int
    expert: int


@dataclass(frozen=True)
class Demand:
    """What one layer's router asked for in one step.

    `tokens_E` int64 [E]: tokens routed to each expert. `num_tokens`: tokens in the step (T); the rest of the layer
    is computed for all of them. `weights_E` float64 [E], optional: router weight summed over tokens. `active_N` (and as
    a list, `active`): experts with at least one token, ascending; `tokens`: their counts.
    """

    step: int
    layer: int
    phase: Phase
    tokens_E: IntArray
    num_tokens: int
    weights_E: FloatArray | None = None
    active_N: IntArray = field(init=False, repr=False, compare=False)
    active: list[int] = field(init=False, repr=False, compare=False)
    tokens: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        active_N = self.tokens_E.nonzero()[0]
        object.__setattr__(self, "active_N", active_N)
        object.__setattr__(self, "active", active_N.tolist())
        object.__setattr__(self, "tokens", self.tokens_E[active_N].tolist())


class Run(NamedTuple):
    """Compute one expert's FFN on a lane; on the GPU after its fetch, if it has one."""

    expert: ExpertId
    num_tokens: int
    lane: Lane
    cause: str


class Fetch(NamedTuple):
    """Copy one expert to the GPU, into the slot of `victim` (None: a free slot).

    `prefetch` copies wait behind demanded ones. The victim is unusable from the moment the plan is made.
    """

    expert: ExpertId
    victim: ExpertId | None
    prefetch: bool
    cause: str


class Evict(NamedTuple):
    """Give up one resident expert's slot without a successor."""

    expert: ExpertId
    cause: str


Op: TypeAlias = Run | Fetch | Evict


class LinkState(NamedTuple):
    """What the executor says of the copy engine at the moment of decision.

    `free_s`: seconds until a demanded copy submitted now would start. `arrived`: copies that completed since the
    last report. `in_flight`: copies under way or waiting, each with the seconds until it has wholly arrived.
    """

    free_s: float = 0.0
    arrived: tuple[ExpertId, ...] = ()
    in_flight: tuple[tuple[ExpertId, float], ...] = ()


@dataclass(frozen=True)
class Plan:
    """Ordered ops for one layer of one step, each with its cause.

    Order within a lane is the order of execution: demanded fetches before prefetches. `predicted_s` is the makespan
    that the decider expects after the decision, `decision_s` what deciding took on the host's clock.
    """

    demand: Demand
    ops: tuple[Op, ...]
    predicted_s: float = 0.0
    decision_s: float = 0.0
    solver_status: str = ""

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every expert computation, one per active expert."""
        return tuple(op for op in self.ops if isinstance(op, Run))

    @property
    def fetches(self) -> tuple[Fetch, ...]:
        """Demanded copies first, then prefetches."""
        return tuple(op for op in self.ops if isinstance(op, Fetch))

    @property
    def evicts(self) -> tuple[Evict, ...]:
        """Residents dropped without a successor."""
        return tuple(op for op in self.ops if isinstance(op, Evict))


@dataclass(frozen=True)
class Outcome:
    """What executing a plan came to, in seconds of the machine that the executor stands for.

    `dense_s`: rest of the layer before the decision. `makespan_s`: from the decision to the end of the last lane.
    `gpu_s`, `cpu_s`, `link_s`: busy time of each lane in this layer. `stall_s`: time the GPU lane waited for a copy.
    """

    plan: Plan
    dense_s: float
    makespan_s: float
    gpu_s: float = 0.0
    cpu_s: float = 0.0
    link_s: float = 0.0
    stall_s: float = 0.0
    notes: tuple[str, ...] = field(default=())

    @property
    def layer_s(self) -> float:
        """Time of the whole layer: dense part, decision, experts."""
        return self.dense_s + self.plan.decision_s + self.makespan_s
