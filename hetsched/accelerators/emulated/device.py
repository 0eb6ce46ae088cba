"""emulated: a machine that is not here. Results are really computed, times are the profile's and labelled emulated.

Its own memory with a hard capacity; copy engine, compute queue and CPU lane are threads that do the work. When each
piece begins and ends follows from what was submitted alone, by arithmetic in the caller's thread, which also sleeps for
as long as it takes, stretched by a scale; every time reported is scaled back.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import torch

from ...errors import InputError
from ...machine.profile import HardwareProfile, Link
from ...types import Lane
from ..base import Event
from ..host_memory import HostMemory
from .clock import MAX_SCALE, EmulatedClock
from .lane import BACKGROUND, URGENT, EmulatedLane, LaneEvent, Part

DEFAULT_SCALE = 20.0
Method = TypeVar("Method", bound=Callable[..., Any])


def _apart(method: Method) -> Method:
    """Count what a method takes of its caller's processor: no real device would ask for it."""

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

    `time_scale`: wall seconds per emulated second. `timing_only`: copies take their time and move no byte. Contention
    between the lanes is not emulated. All methods belong to one thread at a time, but cancel() may come from another.
    """

    emulated = True

    def __init__(
        self,
        profile: HardwareProfile,
        capacity_bytes: int | None = None,
        time_scale: float = DEFAULT_SCALE,
        timing_only: bool = False,
    ) -> None:
        if profile.gpu is None or profile.h2d is None:
            raise InputError(f"{profile.name} has no GPU to emulate; choose a machine with one: hetsched profiles list")
        if not time_scale >= 1:
            raise InputError(f"time scale {time_scale} is below 1; an emulated machine cannot outrun this one")
        if time_scale > MAX_SCALE:
            raise InputError(f"time scale {time_scale:g} is above {MAX_SCALE:g}, at which a second takes three hours")
        self.name = f"{profile.name} (emulated{', timing only' if timing_only else ''})"
        super().__init__(profile.gpu.capacity_bytes if capacity_bytes is None else capacity_bytes)
        self.clock = EmulatedClock(time_scale)
        self._link: Link = profile.h2d
        self._timing_only = timing_only
        self._lanes = {lane: EmulatedLane(lane.value, self.clock) for lane in Lane}
        self._arithmetic = threading.Lock()
        self._submitting = threading.RLock()  # what begins when is decided, or cancelled, by one thread at a time
        self.apart_s = 0.0
        self.late_s = 0.0  # wall seconds that the threads still needed after the clock's
        self._host_s = 0.0  # until when the host is busy beside the lanes

    def copy_now(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy at once; no emulated time passes."""
        if not self._timing_only:
            super().copy_now(source, target)

    @_apart
    def copy_in(self, source: torch.Tensor, target: torch.Tensor, *, seconds: float, urgent: bool) -> LaneEvent:
        """Copy chunk by chunk; an urgent copy may come between two chunks of one that is not."""
        chunk_s = self._link.chunk_bytes / self._link.bytes_per_s
        chunks = max(1, math.ceil(min((seconds - self._link.latency_s) / chunk_s, len(source))))
        edges = [len(source) * i // chunks for i in range(chunks + 1)]
        parts = [(self._move(source, target, *edge), seconds / chunks) for edge in itertools.pairwise(edges)]
        return self._submit(Lane.LINK, parts, urgency=URGENT if urgent else BACKGROUND)

    @_apart
    def promote(self, copy: Event) -> None:
        """Make a waiting copy urgent."""
        self._lanes[Lane.LINK].promote(_own(copy))

    @_apart
    def copy_state(self) -> tuple[float, list[tuple[LaneEvent, float]]]:
        """Seconds until an urgent copy would start, and each unfinished copy with the seconds until it ends."""
        now_s = self.clock.now_s
        urgent_s, ends = self._lanes[Lane.LINK].pending()
        left = sorted(((event, end_s - now_s) for event, end_s in ends), key=lambda item: item[1])
        return urgent_s - now_s, left

    @_apart
    def launch(self, lane: Lane, kernel: Callable[[], Any], seconds: float, after: Sequence[Event] = ()) -> LaneEvent:
        """Compute in a lane, in order of submission, after other work."""
        return self._submit(lane, [(self._one_at_a_time(kernel), seconds)], [_own(event) for event in after])

    def begin_step(self) -> None:
        """Nothing: what passes between layers, the engine says at the next."""

    def end_step(self) -> float:
        """The output head is no part of the profile: 0."""
        return 0.0

    @_apart
    def begin_layer(self, dense_s: float, host_s: float = 0.0) -> float:
        """Let both pass; copies go on meanwhile. Nobody sleeps for `host_s`, which has taken its time already."""
        self._pass(dense_s, host_s)
        return dense_s

    @_apart
    def decided(self, decision_s: float) -> None:
        """Let the decision's time pass; the makespan begins here, and time stands still until all is submitted."""
        self._pass(decision_s)

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
            end_s = max([start_s, self._host_s, *(event.end_s for event in own)])
            self._begin_until(end_s)
        self._sleep_until(end_s)
        for any_event in events:
            any_event.result()
        return self.clock.now_s - start_s

    def cancel(self) -> None:
        """Give up all that has not ended, let what runs end; whoever waits in another thread waits no more."""
        with self._submitting:
            self.clock.stop()
            for lane in self._lanes.values():
                lane.cancel()
            self._host_s = self.clock.now_s
        for lane in self._lanes.values():
            lane.drain()

    def close(self) -> None:
        """Cancel, end every thread, free all memory."""
        self.cancel()
        for lane in self._lanes.values():
            lane.close()
        self._allocated.clear()

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

    def _move(self, source: torch.Tensor, target: torch.Tensor, begin: int, end: int) -> Callable[[], Any]:
        return (lambda: None) if self._timing_only else lambda: target[begin:end].copy_(source[begin:end])

    def _submit(
        self, lane: Lane, parts: list[Part], after: Sequence[LaneEvent] = (), urgency: int = URGENT
    ) -> LaneEvent:
        with self._submitting:
            return self._lanes[lane].submit(parts, max(self.clock.now_s, self._host_s), after, urgency)

    def _pass(self, seconds: float, host_s: float = 0.0) -> None:
        moment_s = self.clock.now_s + seconds + host_s
        with self._submitting:
            self._begin_until(moment_s)
        self._sleep_until(moment_s, host_s)

    def _begin_until(self, moment_s: float) -> None:
        self.clock.start()
        while any(lane.begin_until(moment_s) for lane in self._lanes.values()):
            pass  # again: what ends in one lane may let work begin in another
        for lane in self._lanes.values():
            lane.hand_over()

    def _sleep_until(self, moment_s: float, awake_s: float = 0.0) -> None:
        self.clock.advance(moment_s, awake_s)
        begin_s = time.perf_counter()
        with self._submitting:
            due = [event for lane in self._lanes.values() for event in lane.due()]
        for event in due:
            event.wait()
        self.late_s += time.perf_counter() - begin_s


def _own(event: Event) -> LaneEvent:
    """Events of another accelerator have no place on this clock."""
    assert isinstance(event, LaneEvent)
    return event
