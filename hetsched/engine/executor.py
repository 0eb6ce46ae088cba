"""AsyncExecutor: runs a plan on an accelerator's three lanes. It never decides.

Shapes: T tokens, K top-k, H hidden, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from ..accelerators.base import Accelerator, Event
from ..cost import CostModel
from ..errors import InputError
from ..types import ExpertId, Fetch, Lane, LinkState, Outcome, Plan, Run
from .expert_ffn import PLAIN, Arithmetic, Linear, expert_ffn
from .host_store import HostStore
from .slots import SlotPool


@dataclass(frozen=True)
class LayerInput:
    """What the router hands to one layer's experts: `hidden_TH`, expert `ids_TK` and router `weights_TK`.

    An id of num_experts or more belongs to no expert here and adds nothing. `arithmetic`: where the module rounds.
    """

    layer: int
    module: Any
    hidden_TH: torch.Tensor
    ids_TK: torch.Tensor
    weights_TK: torch.Tensor
    arithmetic: Arithmetic = PLAIN


class _Routed(NamedTuple):
    """One expert's rows and router weights [n, 1] where the activations are, and the rows on the host."""

    rows: torch.Tensor
    weights: torch.Tensor
    host_rows: torch.Tensor


@dataclass
class _Begun:
    """A layer under way: where each expert's rows go, its event by expert, and the copies that it started."""

    plan: Plan
    work: LayerInput
    routed: dict[int, _Routed]
    events: dict[int, Event]
    copies: int


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
        self._begun: _Begun | None = None

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

    def received(self, work: LayerInput) -> LayerInput:
        """The same work with its ids on the host, where they are decided on; waits for the router alone."""
        if work.ids_TK.is_cpu:
            return work
        if not hasattr(self._accelerator, "bring"):
            raise InputError(
                f"the model is on {work.ids_TK.device} and accelerator {self._accelerator.name} computes on the host; "
                "move the model to the CPU, or choose accelerator='cuda'"
            )
        return replace(work, ids_TK=self._accelerator.bring(work.ids_TK).result())

    def submit(self, plan: Plan, work: LayerInput) -> None:
        """Start one layer's copies and computations; they work while the caller goes on."""
        for evict in plan.evicts:
            self._slots.vacate(evict.expert)
        for fetch in plan.fetches:
            self._slots.place(fetch.expert, fetch.victim)
        for fetch in plan.fetches:
            self._copy(fetch)
        routed = self._by_expert(work)
        self._begun = _Begun(plan, work, routed, self._launch_all(plan, work, routed), len(plan.fetches))

    def prefetch(self, fetches: Sequence[Fetch]) -> None:
        """Queue copies behind the demanded ones; what they displace is not active in this layer."""
        for fetch in fetches:
            self._slots.place(fetch.expert, fetch.victim)
            self._copy(fetch)
        if self._begun:
            self._begun.copies += len(fetches)

    def finish(self, dense_s: float) -> tuple[torch.Tensor, Outcome]:
        """Wait for the layer; the experts' sum [T, H], and what it took. Raises LaneError with the cause."""
        assert self._begun is not None, "submit comes first"
        begun, self._begun = self._begun, None
        makespan_s = self._accelerator.end_layer(list(begun.events.values()))
        work = begun.work
        sum_dtype = work.arithmetic.sum_dtype(work.hidden_TH, work.weights_TK)
        out_TH = torch.zeros_like(work.hidden_TH, dtype=sum_dtype)
        for e in sorted(begun.events):
            routed, part = begun.routed[e], begun.events[e].result()
            if part.device != out_TH.device:  # the CPU lane's, not yet weighted
                part = self._device.send(part) * routed.weights
            out_TH.index_add_(0, routed.rows, part.to(out_TH.dtype))
        return out_TH.to(work.hidden_TH.dtype), self._outcome(begun, dense_s, makespan_s)

    def abort(self) -> None:
        """After an error: nothing of the plan goes on, and copies that had not arrived are forgotten."""
        self._accelerator.cancel()
        self._copies.clear()
        self._begun = None

    def load(self, expert: ExpertId) -> None:
        """Fill the slot of an expert that is resident from the start."""
        row = self._store.row(expert)
        self._accelerator.load(row, self._slots.buffer(expert, len(row)))

    def _copy(self, fetch: Fetch) -> Event:
        row = self._store.row(fetch.expert)
        target = self._slots.buffer(fetch.expert, len(row))
        event = self._accelerator.copy_in(row, target, seconds=self._cost.copy_s(), urgent=not fetch.prefetch)
        self._copies[fetch.expert] = event
        return event

    def _launch_all(self, plan: Plan, work: LayerInput, routed: dict[int, _Routed]) -> dict[int, Event]:
        events: dict[int, Event] = {}
        host_TH = self._host_hidden(plan, work)
        cpu_extra_s = self._cost.roundtrip_s(plan.demand.num_tokens) if self._cost.has_gpu else 0.0
        for run in plan.runs:
            kernel = self._kernel(run, work, routed[run.expert.expert], host_TH)
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
        self, run: Run, work: LayerInput, routed: _Routed, host_TH: Callable[[], torch.Tensor]
    ) -> Callable[[], torch.Tensor]:
        compute_dtype = work.arithmetic.compute

        def compute() -> torch.Tensor:
            with torch.no_grad():
                if run.lane is Lane.GPU:
                    hidden = work.hidden_TH[routed.rows]
                    weights = self._slots.weights(run.expert, self._store.layout(run.expert.layer))
                    return expert_ffn(work.module, weights, hidden, F.linear, compute_dtype) * routed.weights
                hidden = host_TH()[routed.host_rows]
                weights = self._store.weights(run.expert)
                part = expert_ffn(work.module, weights, hidden, self._cpu_linear, compute_dtype)
                return part * routed.weights if work.hidden_TH.is_cpu else part

        return compute

    def _host_hidden(self, plan: Plan, work: LayerInput) -> Callable[[], torch.Tensor]:
        """The hidden states for the CPU lane: as they are, or on their way to the host while the GPU works."""
        if work.hidden_TH.is_cpu or all(run.lane is Lane.GPU for run in plan.runs):
            return lambda: work.hidden_TH
        brought: Event = self._device.bring(work.hidden_TH)
        return brought.result

    @property
    def _device(self) -> Any:
        """The accelerator, where activations are in its memory: it can bring() them to the host and send() back."""
        return self._accelerator

    def _by_expert(self, work: LayerInput) -> dict[int, _Routed]:
        """What each active expert is routed, rows in the order of eager: by choice, then token."""
        flat = work.ids_TK.T.reshape(-1)
        order = torch.argsort(flat, stable=True)
        experts, counts = torch.unique_consecutive(flat[order], return_counts=True)
        host_rows = rows = order % len(work.hidden_TH)
        if not work.hidden_TH.is_cpu:
            order = self._device.send(order)
            rows = order % len(work.hidden_TH)
        weights = work.weights_TK.T.reshape(-1)[order].unsqueeze(1)
        ends = counts.cumsum(0).tolist()
        spans = [slice(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
        return {
            e: _Routed(rows[span], weights[span], host_rows[span])
            for e, span in zip(experts.tolist(), spans, strict=True)
        }

    def _outcome(self, begun: _Begun, dense_s: float, makespan_s: float) -> Outcome:
        runs, events = begun.plan.runs, begun.events
        gpu = [events[run.expert.expert] for run in runs if run.lane is Lane.GPU]
        cpu = [events[run.expert.expert] for run in runs if run.lane is Lane.CPU]
        return Outcome(
            begun.plan,
            dense_s,
            makespan_s,
            gpu_s=dense_s + sum(event.busy_s for event in gpu),
            cpu_s=sum(event.busy_s for event in cpu),
            link_s=begun.copies * self._cost.copy_s() if begun.copies else 0.0,
            stall_s=sum(event.stall_s for event in gpu),
        )
