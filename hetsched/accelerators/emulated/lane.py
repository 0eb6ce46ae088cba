"""One serial lane of an emulated machine: when each piece of work begins and ends.

Both follow from what was submitted and when, by arithmetic: work begins when it was submitted, the lane is free, and
what it depends on has ended, whichever is last. The work itself is done by the thread that lets the time pass, in the
order in which it began, and has no say in the times.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..base import Cancelled, LaneError
from .clock import EmulatedClock

URGENT, BACKGROUND = 0, 1


class LaneEvent:
    """One piece of work and its completion: `parts` parts of `part_s` seconds, `do(i)` for the i-th.

    More urgent work may come between two parts. `is_open`: its end is not known yet; `end_s`: its end on the clock.
    """

    begun = 0
    is_open = True
    end_s = math.inf
    busy_s = stall_s = 0.0
    ended = False  # it has been done, whatever the emulated clock says
    _value: Any = None
    _error: BaseException | None = None
    _cancelled = False

    def __init__(
        self,
        lane: EmulatedLane,
        do: Callable[[int], Any],
        parts: int,
        part_s: float,
        at_s: float,
        after: Sequence[LaneEvent],
        order: tuple[int, int],
    ) -> None:
        self.lane = lane
        self.do: Callable[[int], Any] | None = do
        self.parts = parts
        self.part_s = part_s
        self.at_s = at_s
        self.after = after
        self.order = order  # the more urgent first, then the earlier submitted
        self._clock = lane.clock

    def __lt__(self, other: LaneEvent) -> bool:
        return self.order < other.order

    @property
    def done(self) -> bool:
        """Whether the work has ended, well or not, also on the emulated clock."""
        return self.ended and self.end_s <= self._clock.now_s

    @property
    def failed(self) -> bool:
        """Whether it ended with an error, or was cancelled."""
        return self.done and (self._cancelled or self._error is not None)

    @property
    def left_s(self) -> float:
        """Seconds of the parts not yet begun."""
        return self.part_s * (self.parts - self.begun)

    def result(self) -> Any:
        """The value; raises LaneError with the cause, or Cancelled."""
        assert self.ended, "nobody has let the time pass in which this ends; end_layer([event]) does"
        if self._cancelled:
            raise Cancelled("cancelled before its end")
        if self._error is not None:
            if isinstance(self._error, Cancelled):
                raise Cancelled(str(self._error))
            raise LaneError(f"work in a lane failed: {self._error}") from self._error
        return self._value

    def cancel(self) -> None:
        """It ends now, whatever has been done of it."""
        self._cancelled, self.is_open, self.ended = True, False, True
        self.end_s = min(self.end_s, self._clock.now_s)
        self.do, self.after = None, ()

    def do_part(self, part: int) -> None:
        """Do one part, once what it depends on has been done; an error is the event's."""
        do = self.do
        if self.ended or do is None:  # cancelled, or an earlier part failed
            return
        try:
            for other in self.after:
                other.result()
            self._value = do(part)
        except Exception as error:
            self._error = error
        if self._error is not None or part == self.parts - 1:
            self.ended, self.do, self.after = True, None, ()


class EmulatedLane:
    """A queue ordered by urgency then submission, on a clock.

    All methods belong to one thread at a time. What has begun is appended to `begun`, each part with its event.
    """

    def __init__(self, clock: EmulatedClock, begun: deque[tuple[LaneEvent, int]]) -> None:
        self.clock = clock
        self._begun = begun
        self._free_s = 0.0  # when the part begun last ends
        self._queue: list[LaneEvent] = []  # with parts not yet begun, in order
        self._ending: list[LaneEvent] = []  # begun to the last part; some may have ended
        self._count = 0

    def submit(
        self,
        do: Callable[[int], Any],
        parts: int,
        part_s: float,
        at_s: float,
        after: Sequence[LaneEvent] = (),
        urgency: int = URGENT,
    ) -> LaneEvent:
        """Queue work as of `at_s`, no earlier than now; its result is that of the last part."""
        self._count += 1
        event = LaneEvent(self, do, parts, part_s, at_s, after, (urgency, self._count))
        if self._queue:
            insort(self._queue, event)
        else:
            self._queue.append(event)
        return event

    def promote(self, event: LaneEvent) -> None:
        """Make waiting work urgent."""
        if event in self._queue:
            event.order = URGENT, event.order[1]
            self._queue.sort()

    def begin_until(self, moment_s: float) -> bool:
        """Begin all that begins before `moment_s`; whether there was any."""
        any_begun = False
        while self._queue and (found := self._next())[1] < moment_s:
            self._begin(*found)
            any_begun = True
        return any_begun

    def settle(self, event: LaneEvent) -> None:
        """Begin parts until the event's end is known. Nothing may be submitted afterwards as of a moment before it."""
        while event.is_open:
            for other in self._next()[0].after:
                other.lane.settle(other)
            self._begin(*self._next())

    def pending(self) -> tuple[float, list[tuple[LaneEvent, float]]]:
        """Seconds until urgent work submitted now would begin, and until the end of each unfinished piece, in order."""
        now_s = self.clock.now_s
        self._ending = [event for event in self._ending if event.end_s > now_s]
        left = [(event, event.end_s - now_s) for event in self._ending]
        urgent_s = moment_s = max(self._free_s - now_s, 0.0)
        for event in self._queue:
            moment_s += event.left_s
            left.append((event, moment_s))
            if event.order[0] == URGENT:
                urgent_s = moment_s
        return urgent_s, left

    def cancel(self) -> None:
        """Give up what has not ended."""
        for event in [*self._ending, *self._queue]:
            if not event.done:
                event.cancel()
        self._queue, self._ending = [], []
        self._free_s = self.clock.now_s

    def _next(self) -> tuple[LaneEvent, float]:
        """The work whose part comes next, and when it begins: infinite where it waits for what has no end yet."""
        queue = self._queue
        event = queue[0]
        moment_s = max(self._free_s, event.at_s)
        if len(queue) > 1 and event.at_s > self._free_s:  # another may come before it
            moment_s = max(self._free_s, min([other.at_s for other in queue]))
            event = next(other for other in queue if other.at_s <= moment_s)
        if event.after and event.begun == 0:
            return event, max(moment_s, *[other.end_s for other in event.after])
        return event, moment_s

    def _begin(self, event: LaneEvent, start_s: float) -> None:
        if event.after and event.begun == 0:
            event.stall_s = start_s - max(self._free_s, event.at_s)
        self._begun.append((event, event.begun))
        event.begun += 1
        self._free_s = start_s + event.part_s
        event.busy_s += event.part_s
        if event.begun == event.parts:
            event.end_s, event.is_open = self._free_s, False
            self._queue.remove(event)
            now_s = self.clock.now_s
            self._ending = [other for other in self._ending if other.end_s > now_s]
            self._ending.append(event)
