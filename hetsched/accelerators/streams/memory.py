"""Memory of a real device: a hard capacity, host memory pinned in place, and tensors brought across for a layer."""

from __future__ import annotations

import os
from typing import Any

import torch

from ..base import LaneError, OutOfDeviceMemory
from .queues import Queues


class DeviceMemory:
    """Allocations within a capacity; the slot pool takes one for all its slots."""

    def __init__(self, queues: Queues, capacity_bytes: int) -> None:
        self._queues = queues
        self._capacity_bytes = capacity_bytes
        self._held: dict[int, int] = {}  # bytes by address

    def allocate(self, num_bytes: int) -> torch.Tensor:
        """uint8 [num_bytes] on the device. Raises OutOfDeviceMemory with the numbers, also when the driver refuses."""
        used = sum(self._held.values())
        if used + num_bytes > self._capacity_bytes:
            raise OutOfDeviceMemory(
                f"{num_bytes} bytes do not fit: {self._capacity_bytes - used} of {self._capacity_bytes} are free"
            )
        try:
            buffer = self._queues.empty(num_bytes)
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemory(
                f"{num_bytes} bytes do not fit: the device has {self._queues.free_bytes()} free, "
                f"though {self._capacity_bytes - used} of {self._capacity_bytes} were left here"
            ) from error
        if num_bytes:
            self._held[buffer.data_ptr()] = num_bytes
        return buffer

    def release(self, buffer: torch.Tensor) -> None:
        """Give an allocation back; the memory is free when its last view is gone."""
        self._held.pop(buffer.data_ptr(), None)

    def close(self) -> None:
        """Forget all allocations and return what torch caches."""
        if self._held:
            self._held.clear()
            self._queues.give_back()


class HostPins:
    """Host memory pinned where it lies, up to a limit; what is refused stays pageable and is said in `notes`."""

    def __init__(self, queues: Queues, limit_bytes: int | None) -> None:
        self._queues = queues
        self._limit_bytes = _half_of_host() if limit_bytes is None else limit_bytes
        self._pinned: list[torch.Tensor] = []
        self._pinned_bytes = 0
        self.notes: list[str] = []

    def pin(self, memory: torch.Tensor) -> bool:
        """Pin contiguous host memory; False leaves it pageable, and copies from it go through pinned chunks."""
        num_bytes = memory.numel() * memory.element_size()
        if self._pinned_bytes + num_bytes > self._limit_bytes:
            self._note(f"{num_bytes} bytes of experts stay pageable: {self._limit_bytes} bytes may be pinned")
            return False
        self._pinned.append(memory)  # first: an interrupt must not leave pinned memory that nobody knows of
        if not self._queues.pin(memory):
            self._pinned.pop()
            self._note(f"{num_bytes} bytes of experts stay pageable: the driver refused to pin them")
            return False
        self._pinned_bytes += num_bytes
        return True

    def close(self) -> None:
        """Unpin everything. May be called twice."""
        while self._pinned:
            self._queues.unpin(self._pinned.pop())
        self._pinned_bytes = 0

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


class HostCopy:
    """A device tensor on its way to pinned host memory. An Event; result() is the host tensor."""

    failed = False
    stall_s = 0.0

    def __init__(self, queues: Queues, out: Any, tensor: torch.Tensor) -> None:
        self._queues = queues
        self._source = tensor  # kept until it has been read
        self._host = queues.pinned(tuple(tensor.shape), tensor.dtype)
        ready, self._begin, self._end = queues.event(), queues.event(), queues.event()
        ready.record(queues.current())
        out.wait_event(ready)
        self._begin.record(out)
        queues.copy(out, tensor, self._host)
        self._end.record(out)

    @property
    def done(self) -> bool:
        """Whether it has arrived."""
        return bool(self._end.query())

    @property
    def busy_s(self) -> float:
        """Device seconds of the copy."""
        return float(self._begin.elapsed_time(self._end)) / 1e3

    def result(self) -> torch.Tensor:
        """Wait for this copy alone, then the host tensor. Raises LaneError."""
        try:
            self._queues.wait(self._end)
        except RuntimeError as error:
            raise LaneError(f"a copy to the host failed: {error}") from error
        return self._host


def _half_of_host() -> int:
    """Half of the host's memory: more pinned starves everything that needs pages."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
