"""Accelerators whose memory is the host's: nothing has to be brought, sent or pinned."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from .base import OutOfDeviceMemory


class Here:
    """An Event of something that is at hand already."""

    done = True
    failed = False
    busy_s = 0.0
    stall_s = 0.0

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        """The value."""
        return self._value


class HostMemory:
    """What the protocol asks of a device about memory, for one whose memory is the host's: no link is to be crossed.

    `capacity_bytes`: more than that cannot be allocated.
    """

    device: ClassVar[torch.device] = torch.device("cpu")
    grouped_experts: ClassVar[None] = None
    notes: ClassVar[list[str]] = []

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._allocated: dict[int, int] = {}

    def allocate(self, num_bytes: int) -> torch.Tensor:
        """A uint8 tensor; raises OutOfDeviceMemory beyond the capacity."""
        used = sum(self._allocated.values())
        if used + num_bytes > self.capacity_bytes:
            raise OutOfDeviceMemory(
                f"{num_bytes} bytes do not fit: {self.capacity_bytes - used} of {self.capacity_bytes} are free"
            )
        buffer = torch.empty(num_bytes, dtype=torch.uint8)
        self._allocated[buffer.data_ptr()] = num_bytes
        return buffer

    def release(self, buffer: torch.Tensor) -> None:
        """Give an allocation back."""
        self._allocated.pop(buffer.data_ptr(), None)

    def copy_now(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy at once."""
        target.copy_(source)

    def pin(self, memory: torch.Tensor) -> bool:
        """Nothing to do: copies are as fast as they get."""
        return True

    def bring(self, tensor: torch.Tensor) -> Here:
        """The tensor itself."""
        return Here(tensor)

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor itself."""
        return tensor
