"""The words of the engine: what the router asked for, what was decided, what happened.

Shapes: L layers, E experts, N active experts of one layer. Units: seconds and bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, IntEnum
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]
Float32Array: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
RouterIds: TypeAlias = tuple[int, int, int, Callable[[], IntArray]]  # address, top_k, here and read of RoutedDemand
A = TypeVar("A", bound=npt.NDArray[Any])


def read_only(array: A) -> A:
    """The same numbers, which nobody can change through what is returned."""
    view = array.view()
    view.setflags(write=False)
    return view


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


class Demand:
    """What one layer's router asked for in one step. Read only: its arrays are, its lists are not to be changed.

    `active`: experts with at least one token, ascending; `tokens`: how many tokens each of them got. `num_tokens`:
    tokens in the step (T); the rest of the layer is computed for all of them. `weights_E` float64 [E], optional:
    router weight summed over tokens. `tokens_E` int64 [E] and `active_N` int64 [N] are the same facts as arrays.
    `new_request`: the step is the first of a request (all its layers say so), and whatever was before it has ended;
    False where nobody knows, as when several requests are served at once. `kept_N`: of each active expert's tokens, how
    many are expected to stay in the text, where some are drafts that may be rejected; None: all. `num_kept`: the same
    of the whole step. All are computed; a text's demand is learned from those that stay.
    """

    __slots__ = (
        "_tokens_E",
        "active",
        "kept_N",
        "layer",
        "new_request",
        "num_experts",
        "num_kept",
        "num_tokens",
        "phase",
        "step",
        "tokens",
        "weights_E",
    )

    def __init__(
        self,
        step: int,
        layer: int,
        phase: Phase,
        tokens_E: IntArray,
        num_tokens: int,
        weights_E: FloatArray | None = None,
        new_request: bool = False,
        kept_E: FloatArray | None = None,
        num_kept: float | None = None,
    ) -> None:
        self.step = step
        self.layer = layer
        self.phase = phase
        self.num_experts = len(tokens_E)
        self.active: list[int] = tokens_E.nonzero()[0].tolist()
        self.tokens: list[int] = tokens_E[self.active].tolist()
        self.num_tokens = num_tokens
        self.kept_N: list[float] | None = None if kept_E is None else kept_E[self.active].tolist()
        self.num_kept = num_tokens if num_kept is None else num_kept
        self.weights_E = None if weights_E is None else read_only(weights_E)
        self.new_request = new_request
        self._tokens_E: IntArray | None = read_only(tokens_E)

    @classmethod
    def listed(
        cls,
        step: int,
        layer: int,
        phase: Phase,
        active: list[int],
        tokens: list[int],
        num_tokens: int,
        num_experts: int,
        weights_E: FloatArray | None = None,
        new_request: bool = False,
    ) -> Demand:
        """A demand from its active experts, ascending, and their token counts; cheaper where these are at hand."""
        made = cls.__new__(cls)
        made.step, made.layer, made.phase, made.num_experts = step, layer, phase, num_experts
        made.active, made.tokens, made.num_tokens = active, tokens, num_tokens
        made.weights_E = None if weights_E is None else read_only(weights_E)
        made.new_request, made._tokens_E = new_request, None
        made.kept_N, made.num_kept = None, num_tokens
        return made

    @property
    def tokens_E(self) -> IntArray:
        """Tokens routed to each expert, int64 [E]."""
        if self._tokens_E is None:
            tokens_E = np.zeros(self.num_experts, np.int64)
            tokens_E[self.active] = self.tokens
            self._tokens_E = read_only(tokens_E)
        return self._tokens_E

    @property
    def active_N(self) -> IntArray:
        """Active experts, ascending, int64 [N]."""
        return np.array(self.active, np.int64)

    @property
    def share_N(self) -> FloatArray:
        """Tokens of each active expert per token of the step, of those that are expected to stay: float64 [N]."""
        return np.array(self.tokens if self.kept_N is None else self.kept_N, np.float64) / (self.num_kept or 1)

    @property
    def share_E(self) -> FloatArray:
        """The same of all experts, float64 [E]."""
        share_E = np.zeros(self.num_experts)
        share_E[self.active] = self.share_N
        return share_E

    def tokens_of(self, expert: int) -> int:
        """Tokens routed to one expert."""
        return self.tokens[self.active.index(expert)] if expert in self.active else 0


class RoutedDemand(Demand):
    """A demand whose experts are still a router's ids in host memory: whoever looks first lists them.

    A kernel does so by their `address`, int64 [num_tokens, top_k]; an id of `here` or more is of no expert. Python has
    them by `read`, which keeps that memory.
    """

    __slots__ = ("address", "here", "read", "top_k")

    def __init__(
        self, step: int, layer: int, phase: Phase, num_tokens: int, num_experts: int, new_request: bool, ids: RouterIds
    ) -> None:
        self.step, self.layer, self.phase, self.num_experts = step, layer, phase, num_experts
        self.num_tokens = self.num_kept = num_tokens
        self.weights_E = self.kept_N = self._tokens_E = None
        self.new_request = new_request
        self.address, self.top_k, self.here, self.read = ids

    def __getattr__(self, name: str) -> Any:
        """Of what nobody has set: the lists."""
        if name not in ("active", "tokens"):
            raise AttributeError(f"a demand has no {name}")
        ids_TK, here = self.read(), self.here
        active = sorted([e for e in ids_TK[0].tolist() if e < here]) if len(ids_TK) == 1 else []
        if active and len(set(active)) == len(active):
            self.active, self.tokens = active, [1] * len(active)
        else:
            tokens_E = np.bincount(ids_TK.ravel(), minlength=here)[:here]
            self.active = tokens_E.nonzero()[0].tolist()
            self.tokens = tokens_E[self.active].tolist()
        return self.active if name == "active" else self.tokens


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


class LinkState(NamedTuple):
    """What the executor says of the copy engine at the moment of decision.

    `free_s`: seconds until a demanded copy submitted now would start. `arrived`: copies that completed since the
    last report. `in_flight`: copies under way or waiting, each with the seconds until it has wholly arrived.
    """

    free_s: float = 0.0
    arrived: tuple[ExpertId, ...] = ()
    in_flight: tuple[tuple[ExpertId, float], ...] = ()


class Plan:
    """What is to be done for one layer of one step, each part with its cause; order is the order of execution.

    `fetches` are the demanded ones; prefetches are decided while the lanes work (Scheduler.prefetch). `predicted_s` is
    the makespan that the decider expects after the decision, `decision_s` what deciding took.
    """

    __slots__ = ("_runs", "decision_s", "demand", "evicts", "fetches", "predicted_s", "solver_status")

    def __init__(
        self,
        demand: Demand,
        runs: tuple[Run, ...],
        fetches: tuple[Fetch, ...] = (),
        evicts: tuple[Evict, ...] = (),
        predicted_s: float = 0.0,
        decision_s: float = 0.0,
        solver_status: str = "",
    ) -> None:
        self.demand = demand
        self._runs: tuple[Run, ...] | None = runs
        self.fetches = fetches
        self.evicts = evicts
        self.predicted_s = predicted_s
        self.decision_s = decision_s
        self.solver_status = solver_status

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every active expert once, with its lane."""
        assert self._runs is not None, "whoever makes a plan without runs makes them here"
        return self._runs

    def lanes(self) -> tuple[Sequence[int], Sequence[int]]:
        """What the GPU computes and what the CPU does, in order: places among the active experts."""
        place_of = {e: at for at, e in enumerate(self.demand.active)}
        on_gpu, on_cpu = ([run for run in self.runs if run.lane is lane] for lane in (Lane.GPU, Lane.CPU))
        return [place_of[run.expert.expert] for run in on_gpu], [place_of[run.expert.expert] for run in on_cpu]

    def with_runs(self, runs: tuple[Run, ...]) -> Plan:
        """The same with other runs."""
        seconds = self.predicted_s, self.decision_s
        return Plan(self.demand, runs, self.fetches, self.evicts, *seconds, self.solver_status)


class Copies(NamedTuple):
    """Copies for an idle link, decided while the lanes work, and the seconds that deciding took."""

    fetches: tuple[Fetch, ...] = ()
    decision_s: float = 0.0


class Outcome(NamedTuple):
    """What executing a plan came to, in seconds of the machine that the executor stands for.

    `dense_s`: rest of the layer before the decision. `makespan_s`: from the decision to the end of the last lane.
    `gpu_s`, `cpu_s`, `link_s`: busy time of each lane in this layer. `stall_s`: time the GPU lane waited for a copy.
    `host_s`: the engine's own time before the decision, which no other figure contains; 0 where `dense_s` and
    `makespan_s` are the wall's, and so contain it. `copied`: copies that were found to have arrived in this layer, and
    `copied_s` what the link worked for them, from their beginning on.
    """

    plan: Plan
    dense_s: float
    makespan_s: float
    gpu_s: float = 0.0
    cpu_s: float = 0.0
    link_s: float = 0.0
    stall_s: float = 0.0
    host_s: float = 0.0
    copied: int = 0
    copied_s: float = 0.0

    @property
    def layer_s(self) -> float:
        """Time of the whole layer: dense part, the engine's own, decision, experts."""
        return self.dense_s + self.host_s + self.plan.decision_s + self.makespan_s
