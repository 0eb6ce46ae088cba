"""Accelerator protocol: memory of its own, a copy engine, a compute queue, and the CPU lane beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from ..types import Lane


class OutOfDeviceMemory(RuntimeError):
    """An allocation beyond the device's capacity; the message holds the numbers."""


class LaneError(RuntimeError):
    """Work in a lane failed; `__cause__` is what it raised."""


class Cancelled(RuntimeError):
    """Work that was still waiting when its lane was cancelled or closed."""


@runtime_checkable
class Event(Protocol):
    """Completion of one piece of work."""

    @property
    def done(self) -> bool:
        """Whether the work has ended, well or not."""
        ...

    @property
    def failed(self) -> bool:
        """Whether it ended with an error."""
        ...

    @property
    def busy_s(self) -> float:
        """Seconds the lane worked on it; valid once done."""
        ...

    @property
    def stall_s(self) -> float:
        """Seconds the lane stood still waiting for what the work depends on; valid once done."""
        ...

    def result(self) -> Any:
        """Wait, then the work's result; raises LaneError with the cause, or Cancelled."""
        ...


class GroupedExperts(Protocol):
    """Several experts' FFNs at once, by kernels of the device's own. Lossless, but not bit for bit torch's."""

    def __call__(
        self,
        module: Any,
        weights_N: Sequence[Mapping[str, torch.Tensor]],
        pairs_N: Sequence[int],
        hidden_TH: torch.Tensor,
        row_P: torch.Tensor,
        weight_P: torch.Tensor,
    ) -> torch.Tensor | None:
        """N experts' parts of P pairs, times the router's `weight_P`, [P, H]; None where the kernels do not serve.

        `pairs_N`: pairs of each expert, one after another in `row_P`, their rows of `hidden_TH`. All on the device.
        """
        ...

    def sum(self, part_PH: torch.Tensor, row_P: torch.Tensor, num_tokens: int) -> torch.Tensor | None:
        """Parts added to their rows, [T, H], bit for bit as one index_add_ an expert would; None: let torch do that."""
        ...


class LayerTime(Protocol):
    """What time a layer takes, section by section: the wall's (`WallTime`) or an emulated machine's.

    `apart_s`: processor seconds that calling threads have spent here so far on what is no work of the engine's own:
    waiting, and what only an emulated machine needs.
    """

    apart_s: float

    def begin_step(self) -> None:
        """A forward pass begins."""
        ...

    def end_step(self) -> float:
        """A forward pass has ended; returns the seconds since its last layer (the output head; 0 where emulated)."""
        ...

    def begin_layer(self, dense_s: float, host_s: float = 0.0) -> float:
        """The rest of a layer has been computed; returns its seconds.

        Emulated devices let `dense_s` pass, and `host_s`, which the host has spent on the engine itself.
        """
        ...

    def decided(self, decision_s: float) -> None:
        """The host spent this long deciding; emulated devices let it pass. The layer's makespan begins here."""
        ...

    def overlapped(self, seconds: float) -> None:
        """The host spent this long beside the working lanes; what it submits next starts no earlier."""
        ...

    def end_layer(self, events: Sequence[Event]) -> float:
        """Wait for the layer's work, and do what was left to the caller; returns its makespan in seconds.

        What the host does next is not counted.
        """
        ...


@runtime_checkable
class Device(Protocol):
    """What computes and copies beside the host: memory, copies, launches, and the events of both.

    This is what to write for a device of your own: WallTime adds the time of its layers, and HostMemory what crosses no
    link where activations stay in host memory. examples/write_an_accelerator.py is one.

    Lanes are serial and run side by side; work starts in order of submission, a copy marked urgent before those that
    are not. `seconds` is what the profile says a piece of work takes; a real device takes its own.
    """

    name: str
    emulated: bool
    capacity_bytes: int

    @property
    def device(self) -> torch.device:
        """Where activations of the GPU lane are."""
        ...

    @property
    def grouped_experts(self) -> GroupedExperts | None:
        """What computes several experts in one go; None: one after another, with torch."""
        ...

    @property
    def notes(self) -> list[str]:
        """What is not as fast as it could be, and why; empty when nothing is."""
        ...

    def allocate(self, num_bytes: int) -> torch.Tensor:
        """A uint8 tensor of device memory; raises OutOfDeviceMemory beyond the capacity."""
        ...

    def release(self, buffer: torch.Tensor) -> None:
        """Give an allocation back."""
        ...

    def pin(self, memory: torch.Tensor) -> bool:
        """Make contiguous host memory fast to copy from, until close(); False, and a note, where that is refused."""
        ...

    def bring(self, tensor: torch.Tensor) -> Event:
        """Copy a tensor of the device to the host beside everything else; the event's result is the host tensor."""
        ...

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a small host tensor to the device, in order with the caller's own work there."""
        ...

    def copy_now(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy host bytes to device bytes before the first step; waits, and is no part of any layer's time."""
        ...

    def copy_in(self, source: torch.Tensor, target: torch.Tensor, *, seconds: float, urgent: bool) -> Event:
        """Copy host bytes to device bytes on the copy engine. `seconds`: what it takes by the profile."""
        ...

    def promote(self, copy: Event) -> None:
        """Make a waiting copy urgent."""
        ...

    def copy_state(self) -> tuple[float, Sequence[tuple[Event, float]]]:
        """Seconds until an urgent copy would start, and each unfinished copy with the seconds until it ends."""
        ...

    def launch(self, lane: Lane, kernel: Callable[[], Any], seconds: float, after: Sequence[Event] = ()) -> Event:
        """Compute on the GPU or CPU lane, after other work. `seconds`: what it takes by the profile.

        The CPU lane's work may be left to whoever waits for it (CallersLane): end_layer then does it first.
        """
        ...

    def cancel(self) -> None:
        """Give up all waiting work, let what runs end."""
        ...

    def close(self) -> None:
        """Cancel, end every thread, free all memory. May be called twice."""
        ...


@runtime_checkable
class Accelerator(Device, LayerTime, Protocol):
    """A device and its time. All seconds are the device's own: emulated ones scaled back, real ones as measured."""
