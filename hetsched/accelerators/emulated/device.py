"""emulated: a machine that is not here. Results are really computed, times are the profile's and labelled emulated.

Its own memory with a hard capacity, copy engine, compute queue and CPU lane. When each piece of work begins and ends
follows from what was submitted alone, by arithmetic. Whoever lets the time pass does the work that begins in it, one
piece after another, and sleeps for what is left of the time, stretched by a scale; every time reported is scaled back.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import torch

from ...errors import InputError
from ...machine.drift import Drift, check_drifts
from ...machine.profile import HardwareProfile, Link
from ...types import Lane
from ..base import Cancelled, Event
from ..host_memory import HostMemory
from .clock import MAX_SCALE, EmulatedClock
from .lane import BACKGROUND, URGENT, EmulatedLane, LaneEvent

DEFAULT_SCALE = 20.0
GPU = Lane.GPU  # a global costs a third of an enum's attribute
Method = TypeVar("Method", bound=Callable[..., Any])


def _apart(method: Method) -> Method:
    """Count what a method takes of its caller's processor: no real device would ask for it.

    Queueing work is not such a method: it stands for a driver's call, which would take about as long.
    """

    @wraps(method)
    def counted(self: EmulatedAccelerator, *args: Any, **kwargs: Any) -> Any:
        begin_s = time.thread_time()
        try:
            return method(self, *args, **kwargs)
        finally:
            self.apart_s += time.thread_time() - begin_s

    return cast(Method, counted)


class EmulatedAccelerator(HostMemory):
    """Three emulated lanes and an arena of `capacity_bytes` (default: what the profile's GPU has).

    `time_scale`: wall seconds per emulated second. `timing_only`: copies take their time and move no byte. `drifts`:
    work takes so many times the seconds it is said to take, by part and from some forward pass on; how long copies
    will take is told by those seconds all the same. Contention between the lanes is not emulated. All methods belong to
    one thread at a time, but cancel() may come from another.
    """

    emulated = True

    def __init__(
        self,
        profile: HardwareProfile,
        capacity_bytes: int | None = None,
        time_scale: float = DEFAULT_SCALE,
        timing_only: bool = False,
        drifts: Sequence[Drift] = (),
    ) -> None:
        if profile.gpu is None or profile.h2d is None:
            raise InputError(f"{profile.name} has no GPU to emulate; choose a machine with one: hetsched profiles list")
        if not time_scale >= 1:
            raise InputError(f"time scale {time_scale} is below 1; an emulated machine cannot outrun this one")
        if time_scale > MAX_SCALE:
            raise InputError(f"time scale {time_scale:g} is above {MAX_SCALE:g}, at which a second takes three hours")
        check_drifts(drifts)
        self.name = f"{profile.name} (emulated{', timing only' if timing_only else ''})"
        super().__init__(profile.gpu.capacity_bytes if capacity_bytes is None else capacity_bytes)
        self.clock = EmulatedClock(time_scale)
        self._link: Link = profile.h2d
        self._timing_only = timing_only
        self._begun: deque[tuple[LaneEvent, int]] = deque()  # parts of work that have begun and are still to be done
        self._lanes = [EmulatedLane(self.clock, self._begun) for _ in range(3)]
        self._gpu_lane, self._link_lane, self._cpu_lane = self._lanes
        self._submitting = threading.RLock()  # what begins when is decided, or cancelled, by one thread at a time
        self.apart_s = 0.0
        self.worked_s = 0.0  # wall seconds of the lanes' work
        self._host_s = 0.0  # until when the host is busy beside the lanes
        self._closed = False
        self._drifts = {drift.from_step: drift for drift in drifts}
        self._drift, self._step = self._drifts.get(0, Drift()), -1

    def copy_now(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy at once; no emulated time passes."""
        if not self._timing_only:
            super().copy_now(source, target)

    def copy_in(self, source: torch.Tensor, target: torch.Tensor, *, seconds: float, urgent: bool) -> LaneEvent:
        """Copy chunk by chunk; an urgent copy may come between two chunks of one that is not."""
        size, link = source.numel(), self._link
        chunks = max(1, math.ceil(min((seconds - link.latency_s) * link.bytes_per_s / link.chunk_bytes, size)))

        def move(part: int) -> None:
            begin, end = size * part // chunks, size * (part + 1) // chunks
            target[begin:end].copy_(source[begin:end])

        do = _nothing if self._timing_only else move
        part_s = self._drift.link * seconds / chunks
        return self._submit(self._link_lane, do, chunks, part_s, (), URGENT if urgent else BACKGROUND)

    def promote(self, copy: Event) -> None:
        """Make a waiting copy urgent."""
        self._link_lane.promote(_own(copy))

    def copy_state(self) -> tuple[float, list[tuple[LaneEvent, float]]]:
        """Seconds until an urgent copy would start, and each unfinished copy with the seconds until it ends."""
        free_s, left = self._link_lane.pending()
        slow = self._drift.link
        return (free_s, left) if slow == 1.0 else (free_s / slow, [(event, left_s / slow) for event, left_s in left])

    def launch(self, lane: Lane, kernel: Callable[[], Any], seconds: float, after: Sequence[Event] = ()) -> LaneEvent:
        """Compute in a lane, in order of submission, after other work."""
        drift = self._drift
        in_lane, slow = (self._gpu_lane, drift.gpu) if lane is GPU else (self._cpu_lane, drift.cpu)
        others = [_own(event) for event in after] if after else ()
        return self._submit(in_lane, lambda part: kernel(), 1, seconds * slow, others)

    def begin_step(self) -> None:
        """Count it, for drifts; what passes between layers, the engine says at the next."""
        self._step += 1
        self._drift = self._drifts.get(self._step, self._drift)

    def end_step(self) -> float:
        """The output head is no part of the profile: 0."""
        return 0.0

    @_apart
    def begin_layer(self, dense_s: float, host_s: float = 0.0) -> float:
        """Let both pass; copies go on meanwhile. Nobody sleeps for `host_s`, which has taken its time already."""
        dense_s *= self._drift.gpu
        self._pass_until(self.clock.now_s + dense_s + host_s, host_s)
        return dense_s

    @_apart
    def decided(self, decision_s: float) -> None:
        """Let the decision's time pass; the makespan begins here, and time stands still until all is submitted."""
        self._pass_until(self.clock.now_s + decision_s)

    def overlapped(self, seconds: float) -> None:
        """Copies submitted from here on begin that much later, and the layer ends no earlier."""
        self._host_s = self.clock.now_s + seconds

    @_apart
    def end_layer(self, events: Sequence[Event]) -> float:
        """Let time pass until the layer's work has ended, and return its makespan."""
        start_s = self.clock.now_s
        own = [event for event in events if isinstance(event, LaneEvent)]
        with self._submitting:
            for event in own:
                event.lane.settle(event)
            end_s = max([start_s, self._host_s, *[event.end_s for event in own]])
        self._pass_until(end_s)
        for any_event in events:
            any_event.result()
        return self.clock.now_s - start_s

    def cancel(self) -> None:
        """Give up all that has not ended; whoever waits in another thread waits no more."""
        with self._submitting:
            self.clock.stop()
            for lane in self._lanes:
                lane.cancel()
            self._begun.clear()
            self._host_s = self.clock.now_s

    def close(self) -> None:
        """Cancel, free all memory."""
        self._closed = True
        self.cancel()
        self._allocated.clear()

    def _submit(
        self,
        lane: EmulatedLane,
        do: Callable[[int], Any],
        parts: int,
        part_s: float,
        after: Sequence[LaneEvent],
        urgency: int = URGENT,
    ) -> LaneEvent:
        with self._submitting:
            if self._closed:
                raise Cancelled("the accelerator is closed")
            return lane.submit(do, parts, part_s, max(self.clock.now_s, self._host_s), after, urgency)

    def _pass_until(self, moment_s: float, awake_s: float = 0.0) -> None:
        """Let time pass: do what begins meanwhile, then sleep for the rest; `awake_s` of it need no sleep."""
        begin_s = time.perf_counter()
        with self._submitting:
            self.clock.start()
            while any(lane.begin_until(moment_s) for lane in self._lanes):
                pass  # again: what ends in one lane may let work begin in another
        with contextlib.suppress(IndexError):  # none is left, or another thread has cancelled them
            while self._begun:
                event, part = self._begun.popleft()
                event.do_part(part)
        worked_s = time.perf_counter() - begin_s
        self.worked_s += worked_s
        self.clock.advance(moment_s, worked_s + awake_s * self.clock.scale)


def _nothing(part: int) -> None:
    """What copies do where only their time counts."""


def _own(event: Event) -> LaneEvent:
    """Events of another accelerator have no place on this clock."""
    assert isinstance(event, LaneEvent)
    return event
