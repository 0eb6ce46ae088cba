"""Engine: scheduler and executor of one model's experts, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..accelerators.base import Accelerator
from ..errors import InputError
from ..scheduler import Scheduler
from ..types import Phase
from .executor import AsyncExecutor, LayerInput
from .expert_ffn import Linear
from .host_store import HostStore
from .slots import SlotPool


class Engine:
    """The step: ask the scheduler, run the plan, tell the scheduler. One thread at a time."""

    def __init__(self, scheduler: Scheduler, accelerator: Accelerator, cpu_linear: Linear = F.linear) -> None:
        self.scheduler = scheduler
        self.accelerator = accelerator
        self.store = HostStore()
        self.phase: Phase | None = None  # set by whoever knows; None: one token is decode, more are prefill
        self._slots = SlotPool(accelerator, scheduler.residency.num_slots, scheduler.geometry.expert_bytes)
        self._executor = AsyncExecutor(accelerator, scheduler.cost, self.store, self._slots, cpu_linear)
        self._last_phase = Phase.PREFILL
        self._adopted: set[int] = set()
        for expert in scheduler.initial:
            self._slots.place(expert)

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
        self._adopted.add(layer)
        if hasattr(self.accelerator, "pin"):  # only devices with a copy engine of their own
            self.accelerator.pin(self.store.rows(layer))
        for expert in self.scheduler.residency.residents():
            if expert.layer == layer:
                self._executor.load(expert)

    def give_back(self, layer: int, module: Any) -> None:
        """Return one layer's experts to their module."""
        self.store.give_back(layer, module)

    def forward(self, work: LayerInput) -> torch.Tensor:
        """One layer's experts, scheduled: the sum of their contributions [T, H].

        On any error nothing of the layer goes on, what had not arrived is forgotten, and the error reaches the caller.
        """
        try:
            return self._forward(work)
        except BaseException:
            self._abort()
            raise

    def _forward(self, work: LayerInput) -> torch.Tensor:
        work = self._executor.received(work)
        num_tokens = len(work.hidden_TH)
        experts = self.scheduler.geometry.num_experts
        tokens_E = torch.bincount(work.ids_TK.reshape(-1), minlength=experts)[:experts].numpy()
        tokens_E[work.module.num_experts :] = 0  # ids of no expert; and layers may have fewer than others
        phase = self.phase if self.phase is not None else Phase.DECODE if num_tokens == 1 else Phase.PREFILL
        self._last_phase = phase
        demand = self.scheduler.demand(work.layer, tokens_E.astype(np.int64), num_tokens, phase)
        dense_s = self.accelerator.begin_layer(self.scheduler.cost.dense_s(num_tokens))
        plan = self.scheduler.step(demand, self._executor.link_state())
        self.accelerator.decided(plan.decision_s)
        self._executor.submit(plan, work)
        if len(self._adopted) == self.scheduler.geometry.num_layers:  # else there may be nothing to copy from yet
            copies = self.scheduler.prefetch(self._executor.link_state())
            self.accelerator.overlapped(copies.decision_s)
            self._executor.prefetch(copies.fetches)
        out_TH, outcome = self._executor.finish(dense_s)
        self.scheduler.observe(outcome)
        return out_TH

    def begin_step(self, phase: Phase | None) -> None:
        """A forward pass begins, of a known phase or not."""
        self.phase = phase
        self.accelerator.begin_step()

    def end_step(self) -> None:
        """A forward pass has ended."""
        self.scheduler.stats.record_tail(self._last_phase, self.accelerator.end_step())

    def close(self) -> None:
        """End all threads and release device memory. May be called twice."""
        self.accelerator.close()
        self._slots.close()

    def _abort(self) -> None:
        self._executor.abort()
        self.scheduler.drop_copies()
        self._slots.reconcile(self.scheduler.residency.residents())
