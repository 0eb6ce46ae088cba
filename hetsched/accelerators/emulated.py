"""emulated: a machine that is not here. Results are really computed, times are the profile's and labelled emulated.

Its own memory with a hard capacity; copy engine, compute queue and CPU lane are threads that take the profile's time,
stretched by a scale so that a thread can honour it; every time reported is scaled back.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import InputError
from ..profile import HardwareProfile, Link
from ..types import Lane
from .base import Event, OutOfDeviceMemory
from .clock import EmulatedClock
from .host_memory import HostMemory
from .lane import BACKGROUND, URGENT, EmulatedLane, LaneEvent

DEFAULT_SCALE = 20.0


class EmulatedAccelerator(HostMemory):
    """Three emulated lanes and an arena of `capacity_bytes` (default: what the profile's GPU has).

    `time_scale`: wall seconds per emulated second. Contention between the lanes is not emulated.
    """

    emulated = True

    def __init__(
        self, profile: HardwareProfile, capacity_bytes: int | None = None, time_scale: float = DEFAULT_SCALE
    ) -> None:
        if profile.gpu is None or profile.h2d is None:
            raise InputError(f"{profile.name} has no GPU to emulate; choose a machine with one: hetsched profiles list")
        if not time_scale >= 1:
            raise InputError(f"time scale {time_scale} is below 1; an emulated machine cannot outrun this one")
        self.name = f"{profile.name} (emulated)"
        self.capacity_bytes = profile.gpu.capacity_bytes if capacity_bytes is None else capacity_bytes
        self._link: Link = profile.h2d
        self._clock = EmulatedClock(time_scale)
        self._lanes = {lane: EmulatedLane(lane.value, self._clock) for lane in Lane}
        self._arithmetic = threading.Lock()
        self._copies: list[LaneEvent] = []
        self._allocated: dict[int, int] = {}
        self._now_s = 0.0  # where the emulated layer stands; work is submitted as of this moment
        self._host_s = 0.0  # until when the host is busy beside the lanes

    def allocate(self, num_bytes: int) -> torch.Tensor:
        """A uint8 tensor inside the arena; raises OutOfDeviceMemory beyond it."""
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

    def load(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy at once; no emulated time passes."""
        target.copy_(source)

    def copy_in(self, source: torch.Tensor, target: torch.Tensor, *, seconds: float, urgent: bool) -> LaneEvent:
        """Copy chunk by chunk; an urgent copy may come between two chunks of one that is not."""
        chunk_s = self._link.chunk_bytes / self._link.bytes_per_s
        chunks = max(1, min(math.ceil((seconds - self._link.latency_s) / chunk_s), len(source)))
        edges = [len(source) * i // chunks for i in range(chunks + 1)]
        parts = [
            (_copy(source[begin:end], target[begin:end]), seconds / chunks) for begin, end in itertools.pairwise(edges)
        ]
        at_s = max(self._now_s, self._host_s)
        self._lanes[Lane.LINK].catch_up(self._now_s)
        event = self._lanes[Lane.LINK].submit(parts, at_s, urgency=URGENT if urgent else BACKGROUND)
        self._copies.append(event)
        return event

    def promote(self, copy: Event) -> None:
        """Make a waiting copy urgent."""
        self._lanes[Lane.LINK].catch_up(self._now_s)
        self._lanes[Lane.LINK].promote(_own(copy))

    def copy_state(self) -> tuple[float, list[tuple[LaneEvent, float]]]:
        """Seconds until an urgent copy would start, and each unfinished copy with the seconds until it ends.

        Only the emulated moment counts: a copy whose thread has run ahead of it is still unfinished, one whose thread
        lags behind is waited for.
        """
        self._lanes[Lane.LINK].catch_up(self._now_s)
        urgent_s, waiting = self._lanes[Lane.LINK].pending(self._now_s)
        ends = {event: end_s for event, end_s in waiting if end_s > self._now_s}
        for event, end_s in waiting:
            if end_s <= self._now_s:
                event.wait()
        for event in self._copies:
            if event.done and not event.failed and event.end_s > self._now_s:
                ends[event] = event.end_s
        self._copies = [event for event in self._copies if event in ends]
        left = sorted(((event, end_s - self._now_s) for event, end_s in ends.items()), key=lambda item: item[1])
        return max(0.0, urgent_s - self._now_s), left

    def launch(self, lane: Lane, kernel: Callable[[], Any], seconds: float, after: Sequence[Event] = ()) -> LaneEvent:
        """Compute in a lane, in order of submission, after other work."""
        at_s = max(self._now_s, self._host_s)
        return self._lanes[lane].submit(
            [(self._one_at_a_time(kernel), seconds)], at_s, [_own(event) for event in after]
        )

    def begin_step(self) -> None:
        """Nothing: emulated time stands still between layers."""

    def end_step(self) -> float:
        """The output head is no part of the profile: 0."""
        return 0.0

    def begin_layer(self, dense_s: float) -> float:
        """Let `dense_s` pass; copies go on meanwhile."""
        self._pass(dense_s)
        return dense_s

    def decided(self, decision_s: float) -> None:
        """Let the decision's time pass; the makespan begins here, and time stands still until all is submitted."""
        self._pass(decision_s)

    def overlapped(self, seconds: float) -> None:
        """Copies submitted from here on begin that much later, and the layer ends no earlier."""
        self._host_s = self._now_s + seconds

    def end_layer(self, events: Sequence[Event]) -> float:
        """Wait for the layer's work, halt the clock at its end, and return its makespan."""
        start_s, end_s = self._now_s, max(self._now_s, self._host_s)
        self._clock.run()
        try:
            for event in events:
                event.result()
                end_s = max(end_s, _own(event).end_s)
        finally:
            self._now_s = self._host_s = end_s
            self._clock.halt(end_s)
        return end_s - start_s

    def cancel(self) -> None:
        """Give up all waiting work and wait for what has begun."""
        for lane in self._lanes.values():
            lane.cancel()
        self._clock.run()
        for lane in self._lanes.values():
            lane.drain()
        self._clock.halt()
        self._copies.clear()

    def close(self) -> None:
        """Cancel, end every thread, free all memory."""
        for lane in self._lanes.values():
            lane.stop()
        for lane in self._lanes.values():
            lane.join()
        self._allocated.clear()
        self._copies.clear()

    @property
    def late_s(self) -> float:
        """How much later than emulated the host's threads were in all, in emulated seconds; a measure of the scale."""
        return sum(lane.late_s for lane in self._lanes.values())

    def _one_at_a_time(self, kernel: Callable[[], Any]) -> Callable[[], Any]:
        """The kernel with the caller's number of torch threads, so that it rounds as the caller would.

        The host's cores serve one lane's arithmetic at a time; that both lanes work at once is the clock's affair.
        """
        threads = torch.get_num_threads()

        def work() -> Any:
            with self._arithmetic:
                if torch.get_num_threads() != threads:
                    torch.set_num_threads(threads)
                return kernel()

        return work

    def _pass(self, seconds: float) -> None:
        self._now_s += seconds
        self._clock.run()
        self._clock.wait_until(self._now_s)
        self._clock.halt(self._now_s)


def _copy(source: torch.Tensor, target: torch.Tensor) -> Callable[[], Any]:
    return lambda: target.copy_(source)


def _own(event: Event) -> LaneEvent:
    """Events of another accelerator have no place on this clock."""
    assert isinstance(event, LaneEvent)
    return event
