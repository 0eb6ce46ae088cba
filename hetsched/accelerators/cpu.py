"""cpu: no accelerator. Every expert on the CPU, in the calling thread, measured in wall-clock seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..machine.profile import HardwareProfile
from ..types import Lane
from .base import Event, LaneError, OutOfDeviceMemory
from .host_memory import HostMemory
from .wall_time import WallTime


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


class CpuAccelerator(WallTime, HostMemory):
    """A machine without a device: no memory of its own, no copies, one lane that works at once."""

    name = "cpu"
    emulated = False

    def __init__(self, profile: HardwareProfile | None = None) -> None:
        super().__init__(capacity_bytes=0)
        self.begin_step()

    def copy_now(self, source: torch.Tensor, target: torch.Tensor) -> None:
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

    def cancel(self) -> None:
        """Nothing ever waits."""

    def close(self) -> None:
        """Nothing to end."""
