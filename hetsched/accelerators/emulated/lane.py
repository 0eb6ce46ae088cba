"""One serial lane of an emulated machine: when each piece of work begins and ends, and a thread that does it.

Begin and end follow from what was submitted and when, by arithmetic in the submitting thread: work begins when it was
submitted, the lane is free, and what it depends on has ended, whichever is last. The lane's thread does the work in
that order and has no say in its times, so that a thread which wakes late changes nothing.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Condition, Thread
from threading import Event as Flag
from typing import Any, TypeAlias

from ..base import Cancelled, LaneError
from .clock import EmulatedClock

URGENT, BACKGROUND = 0, 1
Part: TypeAlias = tuple[Callable[[], Any], float]
ToDo: TypeAlias = Callable[[], None]


class LaneEvent:
    """Completion of one piece of work. `is_open`: its end is not known yet; `end_s`: its end on the emulated clock."""

    def __init__(self, lane: EmulatedLane, clock: EmulatedClock) -> None:
        self.lane = lane
        self.is_open = True
        self.end_s = math.inf
        self.busy_s = 0.0
        self.stall_s = 0.0
        self.ended = False  # the thread is through with it, whatever the emulated clock says
        self._clock = clock
        self._awaited = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._cancelled = False

    @property
    def done(self) -> bool:
        """Whether the work has ended, well or not, also on the emulated clock."""
        return self.ended and self.end_s <= self._clock.now_s

    @property
    def failed(self) -> bool:
        """Whether it ended with an error, or was cancelled."""
        return self.done and (self._cancelled or self._error is not None)

    def wait(self) -> None:
        """Wait until the thread is through with it."""
        if not self.ended:
            with self.lane.changed:
                self._awaited = True
                self.lane.changed.wait_for(lambda: self.ended)

    def result(self) -> Any:
        """Wait, then the value; raises LaneError with the cause, or Cancelled."""
        assert not self.is_open, "nobody has let the time pass in which this ends; end_layer([event]) does"
        self.wait()
        if self._cancelled:
            raise Cancelled("cancelled before its end")
        if self._error is not None:
            if isinstance(self._error, Cancelled):
                raise Cancelled(str(self._error))
            raise LaneError(f"work in a lane failed: {self._error}") from self._error
        return self._value

    def finish(self, value: Any = None, error: BaseException | None = None) -> None:
        """The thread is through with it, well or not."""
        self._value, self._error = value, error
        self._end()

    def cancel(self) -> None:
        """It ends now, whatever the thread is at."""
        self._cancelled = True
        self.is_open = False
        self.end_s = min(self.end_s, self._clock.now_s)
        self._end()

    def _end(self) -> None:
        with self.lane.changed:
            self.ended = True
            if self._awaited:
                self.lane.changed.notify_all()


@dataclass
class Work:
    """Parts in turn, each a function and its seconds; more urgent work may come between two parts."""

    event: LaneEvent
    parts: Sequence[Part]
    at_s: float
    after: Sequence[LaneEvent]
    urgency: int
    number: int
    begun: int = 0

    @property
    def left_s(self) -> float:
        """Seconds of the parts not yet begun."""
        return sum(seconds for _, seconds in self.parts[self.begun :])


class EmulatedLane:
    """A queue ordered by urgency then submission, on a clock, and the thread that does what has begun.

    All methods belong to one thread at a time. The thread knows the list of what to do and nothing else, and ends with
    the lane, closed or not.
    """

    def __init__(self, name: str, clock: EmulatedClock) -> None:
        self.changed = Condition()
        self._clock = clock
        self._free_s = 0.0  # when the part begun last ends
        self._queue: list[Work] = []  # with parts not yet begun
        self._ending: list[LaneEvent] = []  # begun to the last part, not yet waited for
        self._count = 0
        self._closed = False
        self._begun: list[ToDo] = []  # not yet handed to the thread
        self._to_do: SimpleQueue[list[ToDo] | None] = SimpleQueue()
        weakref.finalize(self, self._to_do.put, None).atexit = False
        self._thread = Thread(target=_do_all, args=(self._to_do,), name=f"hetsched-{name}", daemon=True)
        self._thread.start()

    def submit(
        self, parts: Sequence[Part], at_s: float, after: Sequence[LaneEvent] = (), urgency: int = URGENT
    ) -> LaneEvent:
        """Queue work as of `at_s`, no earlier than now; its result is that of the last part."""
        if self._closed:
            raise Cancelled("the lane is closed")
        self._count += 1
        work = Work(LaneEvent(self, self._clock), parts, at_s, after, urgency, self._count)
        self._queue.append(work)
        return work.event

    def promote(self, event: LaneEvent) -> None:
        """Make waiting work urgent."""
        for work in self._queue:
            if work.event is event:
                work.urgency = URGENT

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
            work, _ = self._next()
            for other in work.after:
                other.lane.settle(other)
            self._begin(*self._next())

    def due(self) -> list[LaneEvent]:
        """What ends by now on the clock and that the thread may not be through with, the last first."""
        self._ending = [event for event in self._ending if not event.done]
        return [event for event in reversed(self._ending) if event.end_s <= self._clock.now_s]

    def hand_over(self) -> None:
        """Let the thread do what has begun."""
        if self._begun:
            self._to_do.put(self._begun)
            self._begun = []

    def pending(self) -> tuple[float, list[tuple[LaneEvent, float]]]:
        """When urgent work submitted now would begin, and every unfinished piece with its end; seconds on the clock."""
        ends = [(event, event.end_s) for event in self._ending if event.end_s > self._clock.now_s]
        moment_s = max(self._free_s, self._clock.now_s)
        urgent_s = moment_s + sum(work.left_s for work in self._queue if work.urgency == URGENT)
        for work in sorted(self._queue, key=_order):
            moment_s += work.left_s
            ends.append((work.event, moment_s))
        return urgent_s, ends

    def cancel(self) -> None:
        """Give up what has not ended."""
        for event in [*self._ending, *(work.event for work in self._queue)]:
            if not event.done:
                event.cancel()
        self._queue, self._ending, self._begun = [], [], []
        self._free_s = self._clock.now_s

    def drain(self) -> None:
        """Wait for the function that the thread is in, and for what it has been given."""
        drained = Flag()
        self._to_do.put([drained.set])
        if self._thread.is_alive():
            drained.wait()

    def close(self) -> None:
        """Cancel, and end the thread. May be called twice."""
        self._closed = True
        self.cancel()
        self._to_do.put(None)
        self._thread.join()

    def _next(self) -> tuple[Work, float]:
        """The work whose part comes next, and when it begins: infinite where it waits for what has no end yet."""
        moment_s = max(self._free_s, min([work.at_s for work in self._queue]))
        work = min([work for work in self._queue if work.at_s <= moment_s], key=_order)
        if work.begun == 0 and work.after:
            return work, max(moment_s, *(event.end_s for event in work.after))
        return work, moment_s

    def _begin(self, work: Work, start_s: float) -> None:
        event, (function, seconds) = work.event, work.parts[work.begun]
        after = work.after if work.begun == 0 else ()
        if after:
            event.stall_s = start_s - max(self._free_s, work.at_s)
        work.begun += 1
        self._free_s = start_s + seconds
        event.busy_s += seconds
        is_last = work.begun == len(work.parts)
        if is_last:
            event.end_s, event.is_open = self._free_s, False
            self._queue.remove(work)
            self._ending.append(event)
        self._begun.append(lambda: _do(event, function, after, is_last))


def _do_all(to_do: SimpleQueue[list[ToDo] | None]) -> None:
    """The thread: what has been done is let go of, for it holds on to a model and its weights."""
    while (begun := to_do.get()) is not None:
        begun.reverse()
        while begun:
            begun.pop()()


def _order(work: Work) -> tuple[int, int]:
    """The more urgent first, then the earlier submitted."""
    return work.urgency, work.number


def _do(event: LaneEvent, function: Callable[[], Any], after: Sequence[LaneEvent], is_last: bool) -> None:
    """In the lane's thread: one part, once what it depends on has been done."""
    if event.ended:
        return
    try:
        for other in after:
            other.result()
        value = function()
    except BaseException as error:  # whatever it is belongs to the caller, not to this thread
        event.finish(error=error)
        return
    if is_last:
        event.finish(value)
