"""AsyncExecutor: runs a plan on an accelerator's three lanes. It never decides.

Shapes: T tokens, K top-k, H hidden, N active experts, S = tokens sorted by expert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F

from ..accelerators.base import Accelerator, Cancelled, Event, LaneError
from ..cost.model import CostModel
from ..cpu_kernels.weighted_sum import OneTokenSum
from ..errors import InputError
from ..types import ExpertId, Fetch, Lane, LinkState, Outcome, Plan
from .copies import NOTHING, CopiesUnderWay
from .cpu_packed import PackedExperts
from .expert_ffn import PLAIN, Linear, expert_ffn
from .host_store import HostStore
from .layer_work import LayerInput, casting
from .parts import DeviceParts, HostParts
from .recovery import Listener, Patience, RefusedWork, copy_to_device, copy_to_host, is_short, on_the_cpu
from .slots import SlotPool
from .under_way import LaneCall, LayerUnderWay, lane_calls

Hidden: TypeAlias = Callable[[], torch.Tensor]
GPU, CPU = Lane.GPU, Lane.CPU  # a global costs a third of an enum's attribute


class AsyncExecutor:
    """Submits a plan's copies and computations, waits for the layer, and adds the contributions in a fixed order.

    What fails is computed on the CPU lane in the same layer, and `listener` is told; recovery.py has the rules.
    `told`: by whose seconds the accelerator goes. A real one is told what is believed now; an emulated one takes the
    seconds it is told, and those stay the profile's, whatever has been learned of it since. `packed`: layers whose
    packed experts the CPU lane computes by kernels, all of a call at once.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        cost: CostModel,
        store: HostStore,
        slots: SlotPool,
        listener: Listener,
        cpu_linear: Linear = F.linear,
        packed: Mapping[int, PackedExperts] | None = None,
    ) -> None:
        self._accelerator = accelerator
        self.told = CostModel(cost.profile, cost.geometry) if accelerator.emulated else cost
        self._store = store
        self._slots = slots
        self._listener = listener
        self._cpu_linear = cpu_linear
        self._packed: Mapping[int, PackedExperts] = {} if packed is None else packed
        self._copies = CopiesUnderWay(accelerator, cost, self.told, slots, listener, Patience())
        self._under_way: LayerUnderWay | None = None
        self._short = ""
        self._one_token = OneTokenSum()

    def take_short(self) -> str:
        """What the GPU lane has lacked memory for since this was last asked; "" for nothing."""
        short, self._short = self._short, ""
        return short

    def link_state(self) -> LinkState:
        """The copy engine now. Copies that failed are dropped, and told."""
        copies = self._copies
        return copies.link_state(between_layers=self._under_way is None) if copies.event_of else NOTHING

    def received(self, work: LayerInput) -> LayerInput:
        """The same work with its ids on the host, where they are decided on; waits for the router alone."""
        if self._accelerator.device.type == "cpu":
            raise InputError(
                f"the model is on {work.ids_TK.device} and accelerator {self._accelerator.name} computes on the host; "
                "move the model to the CPU, or choose accelerator='cuda'"
            )
        return work._replace(ids_TK=self.bring(work.ids_TK).result())

    def bring(self, tensor: torch.Tensor) -> Event:
        """A device tensor on its way to the host."""
        return copy_to_host(self._accelerator, tensor, self._listener)

    def submit(self, plan: Plan, work: LayerInput) -> None:
        """Start one layer's copies and computations; they work while the caller goes on."""
        for fetch in plan.fetches:
            self._copies.start(fetch, self._store)
        demand, is_here, grouped = plan.demand, work.hidden_TH.is_cpu, self._accelerator.grouped_experts
        parts: HostParts | DeviceParts
        if is_here and grouped is None:
            parts = HostParts(work, demand.tokens, demand.num_tokens, self._one_token)
        else:
            parts = DeviceParts(work, demand.tokens, self._send, grouped)
        self._under_way = under_way = LayerUnderWay(plan, work, parts)
        awaited = self._copies.of_layer(work.layer) if self._copies.event_of else {}
        under_way.calls = calls = lane_calls(plan, awaited)
        host_TH = None if is_here or calls[-1].on_gpu else self._arriving(work)
        starts = True
        for call in calls:
            self._launch(under_way, call, host_TH, starts or not call.on_gpu)
            starts = False

    def prefetch(self, fetches: Sequence[Fetch]) -> None:
        """Queue copies behind the demanded ones; what they displace is not active in this layer."""
        for fetch in fetches:
            self._copies.start(fetch, self._store)

    def finish(self, dense_s: float, host_s: float = 0.0) -> tuple[torch.Tensor, Outcome]:
        """Wait for the layer; the experts' sum [T, H], and what it took.

        Raises LaneError with the cause where an expert failed on the CPU lane twice.
        """
        assert self._under_way is not None, "submit comes first"
        under_way, self._under_way = self._under_way, None
        try:
            makespan_s = self._wait(under_way)
        except (LaneError, Cancelled) as error:
            makespan_s = self._mend(under_way, error)
        if not under_way.work.hidden_TH.is_cpu:
            self._send_results(under_way)
        return under_way.parts.sum(), self._outcome(under_way, dense_s, makespan_s, host_s)

    def abort(self) -> None:
        """After an error: nothing of the plan goes on, and copies that had not arrived are forgotten."""
        self._copies.forget()
        self._under_way = None

    def be_patient(self, patience: Patience) -> None:
        """From now on give copies up after this long."""
        self._copies.be_patient(patience)

    def close(self) -> None:
        """End the thread. May be called twice."""
        self._copies.close()

    def fill_slot(self, expert: ExpertId) -> None:
        """Fill the slot of an expert that is resident from the start."""
        row = self._store.row(expert)
        self._accelerator.copy_now(row, self._slots.buffer(expert, row.numel()))

    def _launch(self, under_way: LayerUnderWay, call: LaneCall, host_TH: Hidden | None, starts: bool) -> None:
        """Hand a call to its lane, after its copy if there is one; `starts`: it is the first of its lane."""
        copy, accelerator = call.copy, self._accelerator
        after: tuple[Event, ...] = ()
        if copy is not None:
            if isinstance(copy, RefusedWork):
                call.event = copy
                return
            accelerator.promote(copy)
            after = (copy,)
        lane = GPU if call.on_gpu else CPU
        try:
            if starts and after and accelerator.emulated:  # the lane's call is made while the copy is under way
                under_way.opening = accelerator.launch(lane, dict, self.told.gpu_call_s())
                after, starts = (*after, under_way.opening), False
            kernel = partial(self._run, under_way, call, host_TH)
            tokens = under_way.tokens if starts else 0
            seconds = self.told.lane_s(call.on_gpu, under_way.counts, call.at_N, tokens)
            call.event = accelerator.launch(lane, kernel, seconds, after)
        except Exception as error:  # a driver's
            call.event = RefusedWork(error)

    def _wait(self, under_way: LayerUnderWay) -> float:
        events, awaited = [], []
        for call in under_way.calls:
            events.append(call.event)
            if call.copy is not None:
                awaited.append(call.copy)
        return self._copies.wait(events, awaited) if awaited else self._accelerator.end_layer(events)

    def _mend(self, under_way: LayerUnderWay, error: Exception) -> float:
        """Wait again, with what failed on the CPU lane; on an emulated machine what went before took as predicted."""
        spent_s = under_way.plan.predicted_s if self._accelerator.emulated else 0.0
        work = under_way.work
        host_TH = None if work.hidden_TH.is_cpu else self._arriving(work)
        while True:
            failed = [call for call in under_way.calls if call.event.failed]
            if not failed:
                raise error
            for call in failed:
                self._move(under_way, call, host_TH)
            try:
                makespan_s = self._wait(under_way)
            except (LaneError, Cancelled) as again:
                error = again
                continue
            self._copies.drop_failed()
            return spent_s + makespan_s

    def _move(self, under_way: LayerUnderWay, call: LaneCall, host_TH: Hidden | None) -> None:
        """Let the CPU lane do a call that failed, in the plan too."""
        experts = [under_way.active[at] for at in call.at_N]
        named = f"layer {under_way.work.layer} expert {', '.join(map(str, experts))}"
        instead, cause = on_the_cpu(call, named, self._listener)
        if call.on_gpu and is_short(call.event):
            self._short = f"{named} found no memory on the device"
        under_way.calls[under_way.calls.index(call)] = instead
        self._launch(under_way, instead, host_TH, False)
        runs = [
            run._replace(lane=Lane.CPU, cause=cause) if run.expert.expert in experts else run
            for run in under_way.plan.runs
        ]
        under_way.plan = under_way.plan.with_runs(tuple(runs))

    def _run(self, under_way: LayerUnderWay, call: LaneCall, host_TH: Hidden | None) -> torch.Tensor | None:
        """In the lane: compute the call's experts. Results of the CPU lane, where activations are elsewhere, [P, H].

        `host_TH`: how the CPU lane gets activations that are elsewhere. What the thread need not be told costs time.
        """
        cast_to = under_way.work.cast_to
        if cast_to is None and not torch.is_grad_enabled():
            return self._computed(under_way, call, host_TH)
        device = under_way.work.hidden_TH.device if call.on_gpu else torch.device("cpu")
        with torch.no_grad(), casting(device, cast_to):
            return self._computed(under_way, call, host_TH)

    def _computed(self, under_way: LayerUnderWay, call: LaneCall, host_TH: Hidden | None) -> torch.Tensor | None:
        work, on_gpu = under_way.work, call.on_gpu
        if on_gpu and self._accelerator.grouped_experts is not None and self._at_once(under_way, call):
            return None
        hidden_TH = work.hidden_TH if on_gpu or host_TH is None else host_TH()
        if not on_gpu and work.cast_to is None and work.layer in self._packed:
            part_PH = self._by_kernels(under_way, call, hidden_TH)
            if hidden_TH is not work.hidden_TH:
                return part_PH
            under_way.put(call, part_PH)
            return None
        if hidden_TH is not work.hidden_TH:
            return torch.cat([self._one(under_way, at, hidden_TH, on_gpu) for at in call.at_N])
        for at in call.at_N:
            under_way.parts.put(at, self._one(under_way, at, hidden_TH, on_gpu))
        return None

    def _one(self, under_way: LayerUnderWay, at: int, hidden_TH: torch.Tensor, on_gpu: bool) -> torch.Tensor:
        """One expert's rows, not yet weighted."""
        work, expert = under_way.work, ExpertId(under_way.work.layer, under_way.active[at])
        if on_gpu:
            weights = self._slots.weights(expert, self._store.layout(expert.layer))
        else:
            weights = self._store.weights(expert)
        linear = F.linear if on_gpu or work.cast_to is not None else self._cpu_linear
        return expert_ffn(work.module, weights, under_way.parts.rows(at, hidden_TH), linear, work.arithmetic.compute)

    def _by_kernels(self, under_way: LayerUnderWay, call: LaneCall, hidden_TH: torch.Tensor) -> torch.Tensor:
        """The call's experts on the CPU, not yet weighted, [P, H]."""
        rows_P = under_way.parts.host_rows(call.at_N).numpy()
        active, counts = ([of[at] for at in call.at_N] for of in (under_way.active, under_way.counts))
        return self._packed[under_way.work.layer].several(hidden_TH, rows_P, active, counts).to(hidden_TH.dtype)

    def _at_once(self, under_way: LayerUnderWay, call: LaneCall) -> bool:
        """Compute the experts by the device's own kernels; False where there are none for them."""
        grouped, work, parts = self._accelerator.grouped_experts, under_way.work, under_way.parts
        if (
            grouped is None
            or work.cast_to is not None
            or work.arithmetic != PLAIN
            or not isinstance(parts, DeviceParts)
        ):
            return False
        layout, active = self._store.layout(work.layer), under_way.active
        weights_N = [self._slots.weights(ExpertId(work.layer, active[at]), layout) for at in call.at_N]
        row_P, weight_P1 = parts.pairs(call.at_N)
        pairs_N = [under_way.counts[at] for at in call.at_N]
        part_PH = grouped(work.module, weights_N, pairs_N, work.hidden_TH, row_P, weight_P1.reshape(-1))
        if part_PH is None:
            return False
        parts.put_weighted(call.at_N, part_PH)
        return True

    def _send_results(self, under_way: LayerUnderWay) -> None:
        """Bring what the CPU lane computed to where the activations are."""
        for call in under_way.calls:
            if not call.on_gpu:
                under_way.put(call, self._send(call.event.result()))

    def _arriving(self, work: LayerInput) -> Hidden:
        """The hidden states on their way to the CPU lane while the GPU works."""
        arriving: Hidden = copy_to_host(self._accelerator, work.hidden_TH, self._listener).result
        return arriving

    def _send(self, tensor: torch.Tensor) -> torch.Tensor:
        return copy_to_device(self._accelerator, tensor, self._listener)

    def _outcome(self, under_way: LayerUnderWay, dense_s: float, makespan_s: float, host_s: float) -> Outcome:
        opening, cpu_s, stall_s = under_way.opening, 0.0, 0.0
        gpu_s = dense_s + (opening.busy_s if opening and not opening.failed else 0.0)
        for call in under_way.calls:
            if call.on_gpu:
                gpu_s += 0.0 if call.event.failed else call.event.busy_s
                stall_s += call.event.stall_s
            else:
                cpu_s += call.event.busy_s
        copied, copied_s = self._copies.take_arrived()
        plan, link_s = under_way.plan, copied_s
        return Outcome(plan, dense_s, makespan_s, gpu_s, cpu_s, link_s, stall_s, host_s, copied, copied_s)
