"""AsyncExecutor: runs a plan on an accelerator's three lanes. It never decides.

Shapes: T tokens, K top-k, H hidden, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from ..accelerators.base import Accelerator, Cancelled, Event, LaneError
from ..cost.model import CostModel
from ..errors import InputError
from ..types import ExpertId, Fetch, Lane, LinkState, Outcome, Plan, Run
from .copies import CopiesUnderWay
from .expert_ffn import PLAIN, Linear, expert_ffn
from .host_store import HostStore
from .layer_work import LayerInput, LayerUnderWay, by_expert, casting, lane_groups
from .recovery import Listener, Patience, RefusedWork, copy_to_device, copy_to_host, on_the_cpu
from .slots import SlotPool


class AsyncExecutor:
    """Submits a plan's copies and computations, waits for the layer, and adds the contributions in a fixed order.

    What fails is computed on the CPU lane in the same layer, and `listener` is told; recovery.py has the rules.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        cost: CostModel,
        store: HostStore,
        slots: SlotPool,
        listener: Listener,
        cpu_linear: Linear = F.linear,
    ) -> None:
        self._accelerator = accelerator
        self._cost = cost
        self._store = store
        self._slots = slots
        self._listener = listener
        self._cpu_linear = cpu_linear
        self._copies = CopiesUnderWay(accelerator, cost, slots, listener, Patience())
        self._under_way: LayerUnderWay | None = None

    def link_state(self) -> LinkState:
        """The copy engine now. Copies that failed are dropped, and told."""
        return self._copies.link_state(between_layers=self._under_way is None)

    def received(self, work: LayerInput) -> LayerInput:
        """The same work with its ids on the host, where they are decided on; waits for the router alone."""
        if work.ids_TK.is_cpu:
            return work
        if self._accelerator.device.type == "cpu":
            raise InputError(
                f"the model is on {work.ids_TK.device} and accelerator {self._accelerator.name} computes on the host; "
                "move the model to the CPU, or choose accelerator='cuda'"
            )
        return work._replace(ids_TK=copy_to_host(self._accelerator, work.ids_TK, self._listener).result())

    def submit(self, plan: Plan, work: LayerInput) -> None:
        """Start one layer's copies and computations; they work while the caller goes on."""
        for evict in plan.evicts:
            self._slots.vacate(evict.expert)
        for fetch in plan.fetches:
            self._slots.place(fetch.expert, fetch.victim)
        for fetch in plan.fetches:
            self._copies.start(fetch, self._store)
        self._under_way = under_way = LayerUnderWay(plan, work, by_expert(work, self._send), len(plan.fetches))
        host_TH = self._host_hidden(plan, work)
        start_s = {Lane.GPU: self._cost.gpu_call_s(), Lane.CPU: self._cost.cpu_start_s(plan.demand.num_tokens)}
        for runs, copy in lane_groups(plan.runs, self._copies.of):
            self._launch(under_way, runs, copy, host_TH, start_s.pop(runs[0].lane, 0.0))

    def prefetch(self, fetches: Sequence[Fetch]) -> None:
        """Queue copies behind the demanded ones; what they displace is not active in this layer."""
        for fetch in fetches:
            self._slots.place(fetch.expert, fetch.victim)
            self._copies.start(fetch, self._store)
        if self._under_way:
            self._under_way.copies += len(fetches)

    def finish(self, dense_s: float) -> tuple[torch.Tensor, Outcome]:
        """Wait for the layer; the experts' sum [T, H], and what it took.

        Raises LaneError with the cause where an expert failed on the CPU lane twice.
        """
        assert self._under_way is not None, "submit comes first"
        under_way, self._under_way = self._under_way, None
        try:
            makespan_s = self._copies.wait(list(under_way.lanes), under_way.awaited.values())
        except (LaneError, Cancelled) as error:
            makespan_s = self._mend(under_way, error)
        return self._sum(under_way), self._outcome(under_way, dense_s, makespan_s)

    def _sum(self, under_way: LayerUnderWay) -> torch.Tensor:
        """All parts added by ascending expert, [T, H]."""
        work = under_way.work
        parts: dict[int, torch.Tensor] = {}
        for event in under_way.lanes:
            found = event.result()
            parts |= found
            found.clear()  # a lane's thread may keep its last event for a while
        sum_dtype = work.arithmetic.sum_dtype(work.hidden_TH, work.weights_TK)
        out_TH = torch.zeros_like(work.hidden_TH, dtype=sum_dtype)
        num_tokens, away = out_TH.shape[0], not out_TH.is_cpu
        for e in sorted(parts):
            routed, part = under_way.routed[e], parts.pop(e)
            if away and part.is_cpu:  # the CPU lane's, not yet weighted
                part = self._send(part) * routed.weights
            if part.dtype is not sum_dtype:
                part = part.to(sum_dtype)
            if num_tokens == part.shape[0] == 1:
                out_TH.add_(part)
            else:
                out_TH.index_add_(0, routed.rows, part)
        return out_TH.to(work.hidden_TH.dtype)

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
        self._accelerator.copy_now(row, self._slots.buffer(expert, len(row)))

    def _mend(self, under_way: LayerUnderWay, error: Exception) -> float:
        """Wait again, with what failed on the CPU lane; on an emulated machine what went before took as predicted."""
        spent_s = under_way.plan.predicted_s if self._accelerator.emulated else 0.0
        host_TH, events = self._to_host(under_way.work), under_way.events
        while True:
            runs = list(under_way.plan.runs)
            failed = [i for i, run in enumerate(runs) if events[run.expert.expert].failed]
            if not failed:
                raise error
            told: set[Event] = set()
            for i in failed:
                e = runs[i].expert.expert
                listener = None if events[e] in told else self._listener  # what failed together is told once
                told.add(events[e])
                under_way.lanes.pop(events[e], None)
                runs[i] = on_the_cpu(runs[i], events[e], under_way.awaited.get(e), listener)
            for i in failed:
                self._launch(under_way, [runs[i]], None, host_TH, 0.0)
            under_way.plan = under_way.plan._replace(runs=tuple(runs))
            try:
                makespan_s = self._copies.wait(list(under_way.lanes), under_way.awaited.values())
            except (LaneError, Cancelled) as again:
                error = again
                continue
            self._copies.drop_failed()
            return spent_s + makespan_s

    def _launch(
        self,
        under_way: LayerUnderWay,
        runs: Sequence[Run],
        copy: Event | None,
        host_TH: Callable[[], torch.Tensor],
        call_s: float,
    ) -> None:
        """Hand runs to their lane, after a copy if there is one; `call_s` is what they take besides."""
        lane = runs[0].lane
        after: tuple[Event, ...] = () if copy is None else (copy,)
        each_s = self._cost.each_gpu_s if lane is Lane.GPU else self._cost.each_cpu_s
        if copy is not None:
            under_way.awaited[runs[0].expert.expert] = copy
        event: Event
        if isinstance(copy, RefusedWork):
            event = copy
        else:
            if copy is not None:
                self._accelerator.promote(copy)
            try:
                if call_s and after and self._accelerator.emulated:  # the call is made while the copy is under way
                    under_way.call = self._accelerator.launch(lane, dict, call_s)
                    after, call_s = (*after, under_way.call), 0.0
                seconds = sum(each_s([run.num_tokens for run in runs]), call_s)
                event = self._accelerator.launch(lane, self._kernel(under_way, runs, host_TH), seconds, after)
            except Exception as error:  # a driver's
                event = RefusedWork(error)
        under_way.lanes[event] = lane
        for run in runs:
            under_way.events[run.expert.expert] = event

    def _kernel(
        self, under_way: LayerUnderWay, runs: Sequence[Run], host_TH: Callable[[], torch.Tensor]
    ) -> Callable[[], dict[int, torch.Tensor]]:
        """What computes each run's part; the CPU lane's is weighted where the activations are."""
        work, on_gpu = under_way.work, runs[0].lane is Lane.GPU
        device = work.hidden_TH.device if on_gpu else torch.device("cpu")
        linear = F.linear if on_gpu or work.cast_to is not None else self._cpu_linear

        def compute() -> dict[int, torch.Tensor]:
            if on_gpu and (at_once := self._at_once(under_way, runs)):
                return at_once
            parts = {}
            with torch.no_grad(), casting(device, work.cast_to):
                hidden_TH = work.hidden_TH if on_gpu else host_TH()
                for run in runs:
                    expert, routed = run.expert, under_way.routed[run.expert.expert]
                    if on_gpu:
                        rows, weights = routed.rows, self._slots.weights(expert, self._store.layout(expert.layer))
                    else:
                        rows, weights = routed.host_rows, self._store.weights(expert)
                    hidden = _rows(hidden_TH, rows)
                    part = expert_ffn(work.module, weights, hidden, linear, work.arithmetic.compute)
                    parts[expert.expert] = part * routed.weights if hidden_TH is work.hidden_TH else part
            return parts

        return compute

    def _at_once(self, under_way: LayerUnderWay, runs: Sequence[Run]) -> dict[int, torch.Tensor] | None:
        """The runs' parts by the device's own kernels; None where there are none for them."""
        grouped, work = self._accelerator.grouped_experts, under_way.work
        if grouped is None or work.cast_to is not None or work.arithmetic != PLAIN:
            return None
        routed_N = [under_way.routed[run.expert.expert] for run in runs]
        weights_N = [self._slots.weights(run.expert, self._store.layout(run.expert.layer)) for run in runs]
        pairs_N = [routed.rows.shape[0] for routed in routed_N]
        row_P = torch.cat([routed.rows for routed in routed_N])
        weight_P = torch.cat([routed.weights.reshape(-1) for routed in routed_N])
        with torch.no_grad():
            part_PH = grouped(work.module, weights_N, pairs_N, work.hidden_TH, row_P, weight_P)
        if part_PH is None:
            return None
        return {run.expert.expert: part for run, part in zip(runs, part_PH.split_with_sizes(pairs_N), strict=True)}

    def _host_hidden(self, plan: Plan, work: LayerInput) -> Callable[[], torch.Tensor]:
        """The hidden states for the CPU lane, where it has anything to do."""
        if work.hidden_TH.is_cpu or all(run.lane is Lane.GPU for run in plan.runs):
            return lambda: work.hidden_TH
        return self._to_host(work)

    def _to_host(self, work: LayerInput) -> Callable[[], torch.Tensor]:
        """The hidden states as they are, or on their way to the host while the GPU works."""
        if work.hidden_TH.is_cpu:
            return lambda: work.hidden_TH
        arriving: Callable[[], torch.Tensor] = copy_to_host(self._accelerator, work.hidden_TH, self._listener).result
        return arriving

    def _send(self, tensor: torch.Tensor) -> torch.Tensor:
        return copy_to_device(self._accelerator, tensor, self._listener)

    def _outcome(self, under_way: LayerUnderWay, dense_s: float, makespan_s: float) -> Outcome:
        gpu = [event for event, lane in under_way.lanes.items() if lane is Lane.GPU]
        cpu = [event for event, lane in under_way.lanes.items() if lane is Lane.CPU]
        return Outcome(
            under_way.plan,
            dense_s,
            makespan_s,
            gpu_s=dense_s + sum(event.busy_s for event in (*gpu, under_way.call) if event and not event.failed),
            cpu_s=sum(event.busy_s for event in cpu),
            link_s=under_way.copies * self._cost.copy_s() if under_way.copies else 0.0,
            stall_s=sum(event.stall_s for event in gpu),
        )


def _rows(hidden_TH: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """An expert's rows of the hidden states; one token needs no gathering."""
    return hidden_TH if rows.shape[0] == hidden_TH.shape[0] == 1 else hidden_TH[rows]
