"""AsyncExecutor: runs a plan on an accelerator's three lanes. It never decides.

Shapes: T tokens, K top-k, H hidden, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..accelerators.base import Accelerator, Event
from ..cost import CostModel
from ..types import ExpertId, Fetch, Lane, LinkState, Outcome, Plan, Run
from .expert_ffn import Linear, expert_ffn
from .host_store import HostStore
from .slots import SlotPool


@dataclass(frozen=True)
class LayerInput:
    """What the router hands to one layer's experts: `hidden_TH`, expert `ids_TK` and router `weights_TK`."""

    layer: int
    module: Any
    hidden_TH: torch.Tensor
    ids_TK: torch.Tensor
    weights_TK: torch.Tensor


class AsyncExecutor:
    """Submits a plan's copies and computations, waits for the layer, and adds the contributions in a fixed order."""

    def __init__(
        self,
        accelerator: Accelerator,
        cost: CostModel,
        store: HostStore,
        slots: SlotPool,
        cpu_linear: Linear = F.linear,
    ) -> None:
        self._accelerator = accelerator
        self._cost = cost
        self._store = store
        self._slots = slots
        self._cpu_linear = cpu_linear
        self._copies: dict[ExpertId, Event] = {}

    def link_state(self) -> LinkState:
        """The copy engine now. A prefetch that failed is raised here, with its cause."""
        free_s, unfinished = self._accelerator.copy_state()
        expert_of = {id(event): expert for expert, event in self._copies.items()}
        in_flight = tuple((expert_of[id(event)], left_s) for event, left_s in unfinished)
        waiting = {expert for expert, _ in in_flight}
        arrived = tuple(expert for expert in self._copies if expert not in waiting)
        for expert in arrived:
            self._copies.pop(expert).result()
        return LinkState(free_s, arrived, in_flight)

    def execute(self, plan: Plan, work: LayerInput, dense_s: float) -> tuple[torch.Tensor, Outcome]:
        """Run one layer; the experts' sum [T, H], and what it took. Raises LaneError with the cause."""
        for fetch in plan.fetches:
            self._slots.place(fetch.expert, fetch.victim)
        for evict in plan.evicts:
            self._slots.vacate(evict.expert)
        copies = [self._copy(fetch) for fetch in plan.fetches]
        routed = _by_expert(work)
        events = self._launch_all(plan, work, routed)
        makespan_s = self._accelerator.end_layer(list(events.values()))
        out_TH = torch.zeros_like(work.hidden_TH)
        for e in sorted(events):
            rows, _ = routed[e]
            out_TH.index_add_(0, rows, events[e].result().to(out_TH.dtype))
        return out_TH, self._outcome(plan, dense_s, makespan_s, events, copies)

    def abort(self) -> None:
        """After an error: nothing of the plan goes on, and copies that had not arrived are forgotten."""
        self._accelerator.cancel()
        self._copies.clear()

    def load(self, expert: ExpertId) -> None:
        """Make an expert resident before the first step."""
        self._slots.place(expert)
        row = self._store.row(expert)
        self._accelerator.load(row, self._slots.buffer(expert, len(row)))

    def _copy(self, fetch: Fetch) -> Event:
        row = self._store.row(fetch.expert)
        target = self._slots.buffer(fetch.expert, len(row))
        event = self._accelerator.copy_in(row, target, seconds=self._cost.copy_s(), urgent=not fetch.prefetch)
        self._copies[fetch.expert] = event
        return event

    def _launch_all(
        self, plan: Plan, work: LayerInput, routed: dict[int, tuple[torch.Tensor, torch.Tensor]]
    ) -> dict[int, Event]:
        events: dict[int, Event] = {}
        cpu_extra_s = self._cost.roundtrip_s(plan.demand.num_tokens) if self._cost.has_gpu else 0.0
        for run in plan.runs:
            kernel = self._kernel(run, work, *routed[run.expert.expert])
            if run.lane is Lane.GPU:
                after = [self._copies[run.expert]] if run.expert in self._copies else []
                for copy in after:
                    self._accelerator.promote(copy)
                (seconds,) = self._cost.each_gpu_s((run.num_tokens,))
                events[run.expert.expert] = self._accelerator.launch(Lane.GPU, kernel, seconds, after)
            else:
                seconds = self._cost.each_cpu_s((run.num_tokens,))[0] + cpu_extra_s
                events[run.expert.expert] = self._accelerator.launch(Lane.CPU, kernel, seconds)
                cpu_extra_s = 0.0
        return events

    def _kernel(
        self, run: Run, work: LayerInput, rows: torch.Tensor, router_weights: torch.Tensor
    ) -> Callable[[], torch.Tensor]:
        def compute() -> torch.Tensor:
            hidden = work.hidden_TH[rows]
            with torch.no_grad():
                if run.lane is Lane.GPU:
                    weights = self._slots.weights(run.expert, self._store.layout(run.expert.layer))
                    return expert_ffn(work.module, weights, hidden) * router_weights
                weights = self._store.weights(run.expert)
                return expert_ffn(work.module, weights, hidden, self._cpu_linear) * router_weights

        return compute

    def _outcome(
        self, plan: Plan, dense_s: float, makespan_s: float, events: dict[int, Event], copies: list[Event]
    ) -> Outcome:
        gpu = [events[run.expert.expert] for run in plan.runs if run.lane is Lane.GPU]
        cpu = [events[run.expert.expert] for run in plan.runs if run.lane is Lane.CPU]
        return Outcome(
            plan,
            dense_s,
            makespan_s,
            gpu_s=dense_s + sum(event.busy_s for event in gpu),
            cpu_s=sum(event.busy_s for event in cpu),
            link_s=len(copies) * self._cost.copy_s() if copies else 0.0,
            stall_s=sum(event.stall_s for event in gpu),
        )


def _by_expert(work: LayerInput) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Rows and router weights [n, 1] of each active expert, rows in the order of eager: by choice, then token."""
    flat = work.ids_TK.T.reshape(-1)
    num_tokens = len(work.hidden_TH)
    order = torch.argsort(flat, stable=True)
    experts, counts = torch.unique_consecutive(flat[order], return_counts=True)
    weights = work.weights_TK.T.reshape(-1)[order].unsqueeze(1)
    rows = order % num_tokens
    ends = counts.cumsum(0).tolist()
    begins = [0, *ends[:-1]]
    return {
        e: (rows[begin:end], weights[begin:end]) for e, begin, end in zip(experts.tolist(), begins, ends, strict=True)
    }
