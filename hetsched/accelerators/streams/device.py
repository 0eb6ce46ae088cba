"""A real device with streams. Copies, kernels and CPU experts side by side, in seconds as measured.

Nothing here synchronises the device: the host waits for events of its own work, asleep.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...types import Lane
from ..base import Event, GroupedExperts
from ..host_lane import CallersLane, CallersWork
from ..wall_time import WallTime
from .copies import CopyEngine, DeviceCopy
from .lanes import DeviceLane, DeviceWork
from .memory import DeviceMemory, HostCopy, HostPins
from .queues import Queues

CHUNK_BYTES = 4 << 20


def _abandon(copies: CopyEngine, lane: DeviceLane, pins: HostPins) -> None:
    """End the threads of an accelerator that nobody has any more. Waits for none: the collector may run in any."""
    lane.abandon()
    copies.abandon(at_end=pins.close)


class StreamAccelerator(WallTime):
    """A device that torch.accelerator knows, by its streams and events. `capacity_bytes`: None takes what is free now.

    `chunk_bytes`: an urgent copy waits for at most two chunks. `pinnable_bytes`: host memory that pin() may take; None
    is half of the host's. `grouped_experts`: kernels of the device's own for several experts at once. `notes`: what is
    not as fast as it could be, and why. Its threads end with it, closed or not.
    """

    emulated = False

    def __init__(
        self,
        queues: Queues,
        capacity_bytes: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        pinnable_bytes: int | None = None,
        grouped_experts: GroupedExperts | None = None,
    ) -> None:
        self.grouped_experts = grouped_experts
        self._queues = queues
        self.name = queues.name
        self.capacity_bytes = queues.free_bytes() if capacity_bytes is None else capacity_bytes
        self._memory = DeviceMemory(queues, self.capacity_bytes)
        self._pins = HostPins(queues, pinnable_bytes)
        self._copies = CopyEngine(queues, chunk_bytes)
        self._gpu = DeviceLane(queues)
        self._cpu = CallersLane()
        self._out = queues.stream()
        self.begin_step()
        weakref.finalize(self, _abandon, self._copies, self._gpu, self._pins).atexit = False

    @property
    def notes(self) -> list[str]:
        """What stays pageable, and why; empty when nothing does."""
        return self._pins.notes

    @property
    def device(self) -> torch.device:
        """Where its memory is."""
        return self._queues.device

    def allocate(self, num_bytes: int) -> torch.Tensor:
        """A uint8 tensor of device memory; raises OutOfDeviceMemory beyond the capacity or what the driver has."""
        return self._memory.allocate(num_bytes)

    def release(self, buffer: torch.Tensor) -> None:
        """Give an allocation back."""
        self._memory.release(buffer)

    def pin(self, memory: torch.Tensor) -> bool:
        """Pin contiguous host memory in place until close(); False, and a note, where it stays pageable."""
        return self._pins.pin(memory)

    def is_pinned(self, memory: torch.Tensor) -> bool:
        """Whether copies from there go to the device directly."""
        return self._queues.is_pinned(memory)

    def copy_now(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy host bytes to device bytes before the first step, and wait."""
        target.copy_(source)
        arrived = self._queues.event()
        arrived.record(self._queues.current())
        self._queues.wait(arrived)

    def bring(self, tensor: torch.Tensor) -> HostCopy:
        """Copy a device tensor to pinned host memory beside everything else; the event's result is the host tensor.

        Router ids and the activations of CPU experts travel so, on a stream of their own: no copy to the device waits.
        """
        return HostCopy(self._queues, self._out, tensor)

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a small host tensor to the device on the caller's stream; the host does not wait."""
        pinned = self._queues.pinned(tuple(tensor.shape), tensor.dtype)
        pinned.copy_(tensor)
        return pinned.to(self._queues.device, non_blocking=True)

    def copy_in(self, source: torch.Tensor, target: torch.Tensor, *, seconds: float, urgent: bool) -> DeviceCopy:
        """Copy host bytes to device bytes, after what the caller's stream holds. The target's last reader has ended."""
        return self._copies.submit(source, target, seconds, urgent)

    def promote(self, copy: Event) -> None:
        """Make a waiting copy urgent."""
        assert isinstance(copy, DeviceCopy)
        self._copies.promote(copy)

    def copy_state(self) -> tuple[float, list[tuple[DeviceCopy, float]]]:
        """Seconds until an urgent copy would start, and each unfinished copy with the seconds until it ends."""
        return self._copies.pending()

    def launch(
        self, lane: Lane, kernel: Callable[[], Any], seconds: float, after: Sequence[Event] = ()
    ) -> DeviceWork | CallersWork:
        """Compute on the GPU, on the stream that the caller is on, or on the CPU when the caller waits for it."""
        return self._gpu.launch(kernel, after) if lane is Lane.GPU else self._cpu.launch(kernel, after)

    def decided(self, decision_s: float) -> None:
        """The makespan begins here, and so does the GPU lane's waiting."""
        self._gpu.begin()
        super().decided(decision_s)

    def cancel(self) -> None:
        """Give up all waiting work, let what runs end."""
        self._cpu.cancel()
        self._gpu.cancel()
        self._copies.cancel()
        self._gpu.settle()

    def close(self) -> None:
        """Cancel, end every thread, unpin and free all memory. May be called twice."""
        self._cpu.close()
        self._gpu.cancel()
        self._copies.close()
        self._gpu.close()
        self._pins.close()
        self._memory.close()
