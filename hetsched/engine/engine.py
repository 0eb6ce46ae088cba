"""Engine: scheduler and executor of one model's experts, layer by layer."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch

from ..accelerators.base import Accelerator
from ..cpu_kernels import weighted_sum
from ..errors import InputError
from ..faults import Fault, story
from ..resizing import resize
from ..scheduler import Scheduler
from ..types import Float32Array, FloatArray, Phase
from .cpu_packed import AS_TORCH, CpuLane, PackedLayers
from .executor import AsyncExecutor
from .host_store import HostStore
from .host_time import HostTime
from .interrupts import uninterrupted
from .layer_work import LayerInput, demand_of
from .living import lives
from .recovery import Patience
from .sight import Sight
from .slots import SHORT, SlotPool

FORKED = (
    "the model was attached before this process was forked, and threads do not survive a fork; "
    "call detach() and hetsched.attach(model, ...) here, or start processes with 'spawn'"
)
CLOSED = "the model was detached while it ran; attach it again"


class Engine:
    """The step: ask the scheduler, run the plan, tell the scheduler.

    Threads take turns, a layer at a time; each gets its own tokens, statistics are of all together. After a fork the
    child's first use raises InputError. `fewer_slots`: go on with fewer where the device has no room for all.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        accelerator: Accelerator,
        cpu: CpuLane = AS_TORCH,
        store: HostStore | None = None,
        fewer_slots: bool = False,
    ) -> None:
        self.scheduler = scheduler
        self.accelerator = accelerator
        self.store = HostStore() if store is None else store
        self.host = HostTime(accelerator, accelerator.emulated, scheduler.stats)
        self.phase: Phase | None = None  # of the forward pass, where it is known
        self.kept_T: FloatArray | None = None  # P(stays in the text) of the pass's tokens, where some are drafts
        self.sight: Sight | None = None  # where the forecaster needs more than ids
        self._slots = SlotPool(accelerator, scheduler.residency, scheduler.geometry.expert_bytes, fewer_slots)
        if self._slots.num_slots < scheduler.residency.num_slots:
            self._go_on_with_fewer()
        self._packed = PackedLayers(cpu.choice)
        lane = cpu.linear, self._packed
        self._executor = AsyncExecutor(accelerator, scheduler.cost, self.store, self._slots, scheduler, *lane)
        self._turn = threading.RLock()
        self._unsettled = False  # a layer is under way, or ended in a way that left something to put right
        self._over = ""  # why nothing can run here any more
        self._last_phase = Phase.PREFILL
        self._adopted: set[int] = set()
        lives(self)

    @property
    def gpu_expert_bytes(self) -> int:
        """Device memory held for experts."""
        return self._slots.num_bytes

    def adopt(self, layer: int, module: Any) -> None:
        """Take over one layer's experts, and load those that are to be resident."""
        layout = self.store.adopt(layer, module)
        if layout.row_bytes > self.scheduler.geometry.expert_bytes:
            self.store.give_back(layer, module)
            raise InputError(
                f"layer {layer} has experts of {layout.row_bytes} bytes, slots hold "
                f"{self.scheduler.geometry.expert_bytes}; expert sizes must not grow after the first layer"
            )
        weighted_sum.make_ready(layout.pieces[0].dtype)
        self._packed.adopt(layer, module, self.store)
        self._adopted.add(layer)
        self._pin(layer)
        self._load(layer)

    def give_back(self, layer: int, *modules: Any) -> None:
        """Return one layer's experts to their module, or modules that share them. May be called twice."""
        self._packed.pop(layer, None)
        self.store.give_back(layer, *modules)

    def reload(self, layers: Iterable[int]) -> None:
        """The weights of these layers have been written to: bring up to date what was copied from them."""
        with self._turn:
            self._unsettled = True
            self._settle()  # copies under way may hold some of both
            for layer in layers:
                self.store.refresh(layer)
                self._load(layer)

    def forward(self, work: LayerInput) -> torch.Tensor:
        """One layer's experts, scheduled: the sum of their contributions [T, H].

        On any error that reaches the caller nothing of the layer goes on, and what had not arrived is forgotten; were
        that to be interrupted too, the next call would do it first.
        """
        with self._turn:
            if self._unsettled:
                self._settle()
            self._unsettled = True
            self.host.resume(work.entered_s)
            try:
                out_TH = self._forward(work)
            except SHORT as error:
                self._settle()
                out_TH = self._again(work, error)
            except BaseException:
                self._settle()
                raise
            self._unsettled = False
            return out_TH

    def _again(self, work: LayerInput, error: Exception) -> torch.Tensor:
        """The layer once more, with fewer slots every time that the device is short of memory."""
        while True:
            if not self.make_room(self._slots.chunk_bytes, story(error)):
                raise error
            self.scheduler.repeat(work.layer)
            self._unsettled = True
            self.host.resume()
            try:
                return self._forward(work)
            except SHORT as again:
                self._settle()
                error = again
            except BaseException:
                self._settle()
                raise

    def _forward(self, work: LayerInput) -> torch.Tensor:
        if not work.ids_TK.is_cpu:
            self.host.pause()  # the host waits for the router
            work = self._executor.received(work)
            self.host.resume()
        demand = demand_of(work, self.scheduler, self.phase, self.kept_T)
        self._last_phase = demand.phase
        if not demand.num_tokens:
            return torch.zeros_like(work.hidden_TH)
        if self.sight is not None:
            self.sight.show(work.layer, work.hidden_TH, self._executor.bring)
        host_s = self.host.charged()
        dense_s = self.accelerator.begin_layer(self._executor.told.dense_s(demand.num_tokens), host_s)
        link = self._executor.link_state()
        plan = self.scheduler.step(demand, link)
        self.accelerator.decided(plan.decision_s)
        self.host.resume()
        if not demand.active:  # all experts are on other ranks
            return torch.zeros_like(work.hidden_TH)
        self._executor.submit(plan, work)
        if len(self._adopted) == self.scheduler.geometry.num_layers:  # else there may be nothing to copy from yet
            self._prefetch()
        out_TH, outcome = self._executor.finish(dense_s, host_s)
        self.scheduler.observe(outcome)
        self.host.pause()
        return out_TH

    def _prefetch(self) -> None:
        link = self._executor.link_state()
        self.host.pause()
        copies = self.scheduler.prefetch(link)
        self.accelerator.overlapped(copies.decision_s)
        self.host.resume()
        if copies.fetches:
            self._executor.prefetch(copies.fetches)

    def foresee(self, draft_DLE: Float32Array, begun_s: float | None = None) -> None:
        """Between passes: the next one verifies these tokens (see Context.draft_DLE); copies for it set out now.

        `begun_s`: what time.thread_time() said when asking the routers began; None where nobody looked.
        """
        with self._turn:
            whole = len(self._adopted) == self.scheduler.geometry.num_layers
            if self._over or self._unsettled or not whole or not self.scheduler.can_foresee:
                return
            self._unsettled = True
            self.host.resume(begun_s)
            copies = self.scheduler.foresee(draft_DLE, self._executor.link_state())
            self.accelerator.overlapped(copies.decision_s)
            self._executor.prefetch(copies.fetches)
            self.host.pause()  # it is charged to the layer that comes next
            self._unsettled = False

    def begin_step(self, phase: Phase | None, new_request: bool = False, drafting: bool = False) -> None:
        """A forward pass begins, of a known phase or not, the first of a request or not; or one that makes drafts."""
        if self._over:
            raise InputError(self._over)
        with self._turn:
            self.phase = phase
            self.scheduler.begin_step(new_request, drafting)
            self.accelerator.begin_step()
            if was_short := self._executor.take_short():
                self.make_room(self._slots.chunk_bytes, was_short)

    def end_step(self) -> None:
        """A forward pass has ended."""
        with self._turn:
            self.kept_T = None
            self.scheduler.stats.record_tail(self._last_phase, self.accelerator.end_step())

    def resize(self, num_slots: int, fewer: bool = False) -> None:
        """Between layers: so many slots from now on; tokens stay as they are.

        Raises InputError for slots that the device has no room for, and nothing has changed; with `fewer`, as many as
        it has.
        """
        with self._turn:
            self._unsettled = True
            self._settle()
            if num_slots < self._slots.num_slots:
                self._take(num_slots, fewer=True)
            if num_slots > self._slots.num_slots:
                self._take(num_slots, fewer)

    def make_room(self, num_bytes: int, reason: str = "asked for") -> int:
        """Between layers: give slots of this many bytes back, or all there are; bytes that were given back.

        For whoever could not allocate on the device, which is counted as a fault.
        """
        with self._turn:
            self._unsettled = True
            self._settle()
            before_bytes = self._slots.num_bytes
            self._take(self._slots.whole(num_bytes), fewer=True)
            given_bytes = before_bytes - self._slots.num_bytes
            self.scheduler.fault(Fault.MEMORY, f"{reason}; {given_bytes} bytes of slots given back")
            return given_bytes

    def _go_on_with_fewer(self) -> None:
        found, wanted = self._slots.num_slots, self.scheduler.residency.num_slots
        said = f"{self.accelerator.name} has room for {found} experts of the {wanted} that were planned"
        self.scheduler.fault(Fault.MEMORY, said)
        warnings.warn(f"{said}; going on with these", RuntimeWarning, stacklevel=2)
        resize(self.scheduler, found)

    def _take(self, num_slots: int, fewer: bool) -> None:
        """A pool of another size, and a residency that agrees with it."""
        made = self._slots.planned(num_slots, fewer)
        with uninterrupted():  # memory and residency change together
            loads = resize(self.scheduler, made.slots, made.kept, partial(self._slots.move, made))
            self._slots.take(made)
        for expert in loads:
            if expert.layer in self._adopted:
                self._executor.fill_slot(expert)

    def be_patient(self, patience: Patience) -> None:
        """From now on give copies up after this long."""
        self._executor.be_patient(patience)

    def check(self) -> None:
        """Verify between two layers that every slot has one expert or none; raises ResidencyError."""
        self.scheduler.residency.check()

    def close(self) -> None:
        """End all threads and release device memory, after the layer under way. May be called twice."""
        if self._over == FORKED:  # the threads and the memory are the parent's
            return
        with self._turn:
            self._over, self._unsettled = CLOSED, True
            self._executor.close()
            self.accelerator.close()
            self._slots.close()

    def forked(self) -> None:
        """This is the child of a fork: nothing can run, and nothing is to be waited for."""
        self._turn = threading.RLock()
        self._over, self._unsettled = FORKED, True

    def _settle(self) -> None:
        if self._over:
            raise InputError(self._over)
        self._executor.abort()
        self.scheduler.residency.recount()
        self.scheduler.drop_copies()
        self._unsettled = False

    def _load(self, layer: int) -> None:
        for expert in self.scheduler.residency.residents():
            if expert.layer == layer:
                self._executor.fill_slot(expert)

    def _pin(self, layer: int) -> None:
        try:
            self.accelerator.pin(self.store.rows(layer))
        except (RuntimeError, MemoryError) as error:  # copies are slower from pageable memory, and as good
            self.scheduler.fault(Fault.PINNING, f"layer {layer}: {story(error)}")
