"""Streams, events and memory of a device, through torch's device-neutral names.

Everything that StreamAccelerator asks of a device is asked here; what a device does better is a subclass (cuda.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

POLL_S = 30e-6


class Queues:
    """One device. Streams and events are torch's own objects; events carry device time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def name(self) -> str:
        """What the device is called."""
        return str(self.device)

    def stream(self) -> Any:
        """A new queue, in order, beside all others."""
        return torch.Stream(device=self.device)

    def current(self) -> Any:
        """The queue that the calling thread's work goes to."""
        return torch.accelerator.current_stream(self.device)

    def event(self) -> Any:
        """A point in a queue, to be recorded."""
        return torch.Event(self.device, enable_timing=True)

    def wait(self, event: Any) -> None:
        """Sleep until a recorded event has come. The host's cores belong to the CPU lane: no spinning."""
        while not event.query():
            time.sleep(POLL_S)

    def copy(self, stream: Any, source: torch.Tensor, target: torch.Tensor) -> None:
        """Queue a copy in either direction; host memory should be pinned."""
        with stream:
            target.copy_(source, non_blocking=True)

    def run(self, stream: Any, kernel: Callable[[], Any]) -> Any:
        """Call a function whose device work goes to `stream`."""
        with stream:
            return kernel()

    def empty(self, num_bytes: int) -> torch.Tensor:
        """Device memory, uint8. Raises torch.OutOfMemoryError."""
        return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        """Host memory that the copy engine reads and writes directly, from torch's pool of it."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def is_pinned(self, memory: torch.Tensor) -> bool:
        """Whether a copy from there runs beside the host."""
        return memory.is_pinned()

    def free_bytes(self) -> int:
        """Device memory that nobody holds."""
        return int(torch.accelerator.get_memory_info(self.device)[0])

    def give_back(self) -> None:
        """Return cached device memory to the driver."""
        torch.accelerator.empty_cache()

    def pin(self, memory: torch.Tensor) -> bool:
        """Pin memory where it lies; False where the device cannot."""
        return False

    def unpin(self, memory: torch.Tensor) -> None:
        """Undo pin()."""
