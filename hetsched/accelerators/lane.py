"""One serial lane of an emulated machine: a thread that does work and takes the time it is told.

Start and end of work are points on the emulated clock, as a serial lane would have them: work starts when it was
submitted, the lane was free, and what it depends on had ended, whichever is last. The thread really waits until the
end; a thread that wakes late delays nothing on the clock, and how late it was is kept in `late_s`.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .base import Cancelled, LaneError
from .clock import EmulatedClock

URGENT, BACKGROUND = 0, 1
Part: TypeAlias = tuple[Callable[[], Any], float]


class LaneEvent:
    """Completion of one piece of work: `end_s` on the emulated clock, once done."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self.end_s = 0.0
        self.busy_s = 0.0
        self.stall_s = 0.0

    @property
    def done(self) -> bool:
        """Whether the work has ended, well or not."""
        return self._ended.is_set()

    @property
    def failed(self) -> bool:
        """Whether it ended with an error."""
        return self._error is not None

    def wait(self) -> None:
        """Wait for the end, well or not."""
        self._ended.wait()

    def result(self) -> Any:
        """Wait, then the value; raises LaneError with the cause, or Cancelled."""
        self._ended.wait()
        if isinstance(self._error, Cancelled):
            raise Cancelled(str(self._error))
        if self._error is not None:
            raise LaneError(f"work in a lane failed: {self._error}") from self._error
        return self._value

    def finish(self, value: Any) -> None:
        """Mark as done."""
        self._value = value
        self._ended.set()

    def fail(self, error: BaseException) -> None:
        """Mark as failed."""
        self._error = error
        self._ended.set()


@dataclass(order=True)
class Work:
    """Parts in turn, each a function and its seconds; more urgent work may come between two parts."""

    urgency: int
    number: int
    submitted_s: float = field(compare=False)
    parts: list[Part] = field(compare=False)
    after: Sequence[LaneEvent] = field(compare=False)
    event: LaneEvent = field(compare=False, default_factory=LaneEvent)
    begun: int = field(compare=False, default=0)
    cancelled: bool = field(compare=False, default=False)

    def left_s(self) -> float:
        """Seconds of the parts not yet begun."""
        return sum(seconds for _, seconds in self.parts[self.begun :])


class EmulatedLane:
    """A thread, a queue ordered by urgency then submission, and the clock it lives by."""

    def __init__(self, name: str, clock: EmulatedClock) -> None:
        self._clock = clock
        self._queue: list[Work] = []
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._stopped = threading.Event()
        self._current: Work | None = None
        self._free_s = 0.0  # when the last part begun ends, on the emulated clock
        self.late_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"hetsched-{name}", daemon=True)
        self._thread.start()

    def submit(
        self, parts: list[Part], at_s: float, after: Sequence[LaneEvent] = (), urgency: int = URGENT
    ) -> LaneEvent:
        """Queue work as of `at_s` on the emulated clock; its result is that of the last part."""
        with self._changed:
            if self._stopped.is_set():
                raise Cancelled("the lane is closed")
            work = Work(urgency, next(self._numbers), at_s, parts, after)
            heapq.heappush(self._queue, work)
            self._changed.notify_all()
        return work.event

    def promote(self, event: LaneEvent) -> None:
        """Make waiting work urgent."""
        with self._changed:
            for work in [*self._queue, *([self._current] if self._current else [])]:
                if work.event is event:
                    work.urgency = URGENT
            heapq.heapify(self._queue)

    def pending(self, now_s: float) -> tuple[float, list[tuple[LaneEvent, float]]]:
        """When urgent work submitted now would start, and every waiting or begun piece with its end, both absolute."""
        with self._changed:
            free_s = max(self._free_s, now_s)
            queue = sorted([*self._queue, *([self._current] if self._current else [])])
            urgent_s = free_s + sum(work.left_s() for work in queue if work.urgency == URGENT)
            ends = []
            for work in queue:
                own_s = self._free_s if work.begun else free_s
                free_s += work.left_s()
                ends.append((work.event, free_s if work.left_s() else own_s))
            return urgent_s, ends

    def cancel(self) -> None:
        """Drop what waits; work that has begun ends its part and no more."""
        with self._changed:
            dropped, self._queue = self._queue, []
            if self._current is not None:
                self._current.cancelled = True
        for work in dropped:
            work.event.fail(Cancelled("cancelled while waiting"))

    def catch_up(self, now_s: float) -> None:
        """Wait until the thread has begun all that begins before `now_s`: one that woke late is not to be overtaken."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped.is_set() or self._has_begun(now_s))

    def _has_begun(self, now_s: float) -> bool:
        if self._current is None:
            return not self._queue
        return self._current.begun > 0 and self._free_s > now_s

    def drain(self) -> None:
        """Wait until nothing waits and nothing is under way; the clock must be running."""
        with self._changed:
            self._changed.wait_for(lambda: self._current is None and not self._queue)

    def stop(self) -> None:
        """Cancel, and let the thread end; join() waits for it."""
        self._stopped.set()
        self.cancel()
        self._clock.wake()
        with self._changed:
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the thread after stop()."""
        self._thread.join()

    def _run(self) -> None:
        while (work := self._take()) is not None:
            self._work_on(work)

    def _work_on(self, work: Work) -> None:
        try:
            value = self._do_part(work)
        except BaseException as error:  # whatever it is belongs to the caller, not to this thread
            work.event.fail(error)
            self._release()
        else:
            self._after_part(work, value)

    def _take(self) -> Work | None:
        with self._changed:
            while not self._queue and not self._stopped.is_set():
                self._changed.wait()
            if self._stopped.is_set():
                return None
            self._current = heapq.heappop(self._queue)
            return self._current

    def _do_part(self, work: Work) -> Any:
        start_s = max(self._free_s, work.submitted_s)
        if work.begun == 0:
            for event in work.after:
                event.result()
                work.event.stall_s += max(0.0, event.end_s - start_s)
                start_s = max(start_s, event.end_s)
        function, seconds = work.parts[work.begun]
        end_s = start_s + seconds
        with self._changed:
            work.begun += 1
            self._free_s = end_s
            self._changed.notify_all()
        # The host decides while the clock stands still: this arithmetic must not compete with it for the host's cores.
        if not self._clock.wait_running(end_s, self._stopped):
            raise Cancelled("the lane was closed")
        value = function()
        if not self._clock.wait_until(end_s, self._stopped):
            raise Cancelled("the lane was closed")
        self.late_s += self._clock.now_s() - end_s
        work.event.busy_s += seconds
        work.event.end_s = end_s
        return value

    def _after_part(self, work: Work, value: Any) -> None:
        with self._changed:
            more = work.begun < len(work.parts)
            if more and not work.cancelled:
                self._release()
                heapq.heappush(self._queue, work)
                return
        if more:
            work.event.fail(Cancelled("cancelled between parts"))
        else:
            work.event.finish(value)
        self._release()

    def _release(self) -> None:
        with self._changed:
            self._current = None
            self._changed.notify_all()
