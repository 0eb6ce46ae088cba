"""cpu: no accelerator. Every expert on the CPU, in the calling thread, measured in wall-clock seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..profile import HardwareProfile
from ..types import Lane
from .base import Event, LaneError, OutOfDeviceMemory
from .host_memory import HostMemory


class DoneEvent:
    """Work that ended before it was handed back."""

    done = True
    stall_s = 0.0

    def __init__(self, value: Any, error: BaseException | None, busy_s: float) -> None:
        self._value = value
        self._error = error
        self.busy_s = busy_s

    @property
    def failed(self) -> bool:
        """Whether it ended with an error."""
        return self._error is not None

    def result(self) -> Any:
        """The value; raises LaneError with the cause."""
        if self._error is not None:
            raise LaneError(f"work in a lane failed: {self._error}") from self._error
        return self._value


class CpuAccelerator(HostMemory):
    """A machine without a device: no memory of its own, no copies, one lane that works at once."""

    name = "cpu"
    emulated = False
    capacity_bytes = 0

    def __init__(self, profile: HardwareProfile | None = None) -> None:
        self._mark_s = time.perf_counter()

    def allocate(self, num_bytes: int) -> torch.Tensor:
        """Always OutOfDeviceMemory, but for nothing."""
        if num_bytes:
            raise OutOfDeviceMemory(f"{num_bytes} bytes do not fit: there is no device memory without a device")
        return torch.empty(0, dtype=torch.uint8)

    def release(self, buffer: torch.Tensor) -> None:
        """Nothing to give back."""

    def load(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """There is nowhere to copy to."""
        raise OutOfDeviceMemory("there is no device to copy to")

    def copy_in(self, source: torch.Tensor, target: torch.Tensor, *, seconds: float, urgent: bool) -> DoneEvent:
        """There is nowhere to copy to."""
        raise OutOfDeviceMemory("there is no device to copy to")

    def promote(self, copy: Event) -> None:
        """No copy ever waits."""

    def copy_state(self) -> tuple[float, list[tuple[DoneEvent, float]]]:
        """No copy engine, nothing under way."""
        return 0.0, []

    def launch(self, lane: Lane, kernel: Callable[[], Any], seconds: float, after: Sequence[Event] = ()) -> DoneEvent:
        """Compute now."""
        start_s = time.perf_counter()
        try:
            value, error = kernel(), None
        except Exception as caught:
            value, error = None, caught
        return DoneEvent(value, error, time.perf_counter() - start_s)

    def begin_step(self) -> None:
        """Time before a forward pass is not the model's."""
        self._mark_s = time.perf_counter()

    def end_step(self) -> float:
        """Wall seconds since the last layer ended."""
        return self.begin_layer(0.0)

    def begin_layer(self, dense_s: float) -> float:
        """Wall seconds since the last layer ended."""
        now_s = time.perf_counter()
        took_s, self._mark_s = now_s - self._mark_s, now_s
        return took_s

    def decided(self, decision_s: float) -> None:
        """The makespan begins here."""
        self._mark_s = time.perf_counter()

    def overlapped(self, seconds: float) -> None:
        """Wall time has passed by itself."""

    def end_layer(self, events: Sequence[Event]) -> float:
        """Wall seconds since the decision."""
        for event in events:
            event.result()
        return self.begin_layer(0.0)

    def cancel(self) -> None:
        """Nothing ever waits."""

    def close(self) -> None:
        """Nothing to end."""
