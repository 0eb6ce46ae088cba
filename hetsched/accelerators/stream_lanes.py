"""The GPU lane and the CPU lane of a real device: serial queues, timed by device events and by the host's clock.

GPU work goes to the stream that its caller is on. It then follows the caller's own device work and precedes what the
caller does next without an event in between, and torch's allocator sees one stream only. Work whose copies are all on
the copy stream already is launched by the caller at once; other work is launched in order by the lane's thread, since a
stream can wait only for an event that has been recorded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .base import Cancelled, Event, LaneError
from .stream_copies import DeviceCopy
from .stream_queues import Queues


class LaneWork:
    """One piece of work and its completion."""

    def __init__(self, kernel: Callable[[], Any], after: Sequence[Event], stream: Any, changed: threading.Condition):
        self.kernel: Callable[[], Any] | None = kernel
        self.after = after
        self.stream = stream
        self.changed = changed
        self.value: Any = None
        self.error: BaseException | None = None
        self.ended = False  # called by the host, well or not

    @property
    def issued(self) -> bool:
        """Whether nothing of it is left for the host to do."""
        return self.ended

    @property
    def done(self) -> bool:
        """Whether the work has ended, well or not."""
        return self.ended

    @property
    def failed(self) -> bool:
        """Whether it ended with an error."""
        return self.error is not None

    def finish(self, value: Any, error: BaseException | None) -> None:
        """The host's part has ended."""
        with self.changed:
            self.value, self.error, self.ended = value, error, True
            self.kernel, self.after = None, ()
            self.changed.notify_all()

    def result(self) -> Any:
        """Wait, then the value. Raises LaneError with the cause, or Cancelled."""
        with self.changed:
            self.changed.wait_for(lambda: self.ended)
        if isinstance(self.error, Cancelled):
            raise Cancelled(str(self.error))
        if self.error is not None:
            raise LaneError(f"work in a lane failed: {self.error}") from self.error
        return self.value


class HostWork(LaneWork):
    """Work of the CPU lane, timed by the host's clock."""

    busy_s = 0.0
    stall_s = 0.0


class DeviceWork(LaneWork):
    """Work of the GPU lane between two events. `free`: the event since when the lane had nothing to do."""

    free: Any = None
    begin: Any = None
    end: Any = None
    queues: Queues
    copies: Sequence[DeviceCopy] = ()

    @property
    def done(self) -> bool:
        """Whether the device has ended it, or the host has failed."""
        return self.ended and (self.failed or bool(self.end.query()))

    @property
    def busy_s(self) -> float:
        """Device seconds between its events."""
        return float(self.begin.elapsed_time(self.end)) / 1e3 if not self.failed else 0.0

    @property
    def stall_s(self) -> float:
        """Device seconds from when the lane was free until the last copy it needs had arrived."""
        if self.failed or self.free is None or not self.copies:
            return 0.0
        return max(0.0, *(float(self.free.elapsed_time(copy.last)) / 1e3 for copy in self.copies))

    def precede(self, stream: Any) -> None:
        """Let `stream` wait for it; the host waits only until it is launched."""
        super().result()
        stream.wait_event(self.end)

    def result(self) -> Any:
        """Wait for the device, then the value."""
        value = super().result()
        try:
            self.queues.wait(self.end)
        except RuntimeError as error:
            self.error = error
            raise LaneError(f"work on the device failed: {error}") from error
        return value


class Lane:
    """A thread and a queue, first in, first out."""

    def __init__(self, name: str) -> None:
        self._changed = threading.Condition()
        self._queue: deque[Any] = deque()
        self._current: Any = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=f"hetsched-{name}", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Give up what waits, let what runs end."""
        with self._changed:
            dropped = list(self._queue)
            self._queue.clear()
        for work in dropped:
            work.finish(None, Cancelled("cancelled while waiting"))

    def drain(self) -> None:
        """Wait until the host has nothing under way in this lane."""
        with self._changed:
            self._changed.wait_for(lambda: self._current is None and not self._queue)

    def abandon(self) -> None:
        """Let the thread end, without waiting for it."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Cancel, and end the thread. May be called twice."""
        self.abandon()
        self.cancel()
        self._thread.join()

    def _submit(self, work: LaneWork, at_once: bool) -> bool:
        """Queue work; True when the caller may do it itself, now."""
        with self._changed:
            if self._stopped:
                raise Cancelled("the accelerator is closed")
            if at_once and self._current is None and not self._queue:
                self._current = work
                return True
            self._queue.append(work)
            self._changed.notify_all()
            return False

    def _do(self, work: Any) -> None:
        """Do the host's part of one piece of work; raises nothing."""
        raise NotImplementedError

    def _end(self) -> None:
        with self._changed:
            self._current = None
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or (self._queue and self._current is None))
                if self._stopped:
                    return
                self._current = self._queue.popleft()
            self._do(self._current)
            self._end()


class HostLane(Lane):
    """The CPU lane: a thread beside the caller with as many torch threads as the caller's, so that it rounds alike."""

    def launch(self, kernel: Callable[[], Any], after: Sequence[Event]) -> HostWork:
        """Compute in order of submission, after other work."""
        threads = torch.get_num_threads()

        def with_the_callers_threads() -> Any:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            return kernel()

        work = HostWork(with_the_callers_threads, after, None, self._changed)
        self._submit(work, at_once=False)
        return work

    def _do(self, work: HostWork) -> None:
        begin_s = time.perf_counter()
        try:
            assert work.kernel is not None
            for event in work.after:
                event.result()
            work.stall_s = time.perf_counter() - begin_s
            value, error = work.kernel(), None
        except BaseException as caught:  # whatever it is belongs to the caller, not to this thread
            value, error = None, caught
        work.busy_s = time.perf_counter() - begin_s - work.stall_s
        work.finish(value, error)


class DeviceLane(Lane):
    """The GPU lane: launches in order, on the caller's stream."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self._free: Any = None
        super().__init__("gpu")

    def begin(self) -> None:
        """A layer's work begins: from here on the lane is free, once the caller's stream has come this far."""
        self._free = self._queues.event()
        self._free.record(self._queues.current())

    def launch(self, kernel: Callable[[], Any], after: Sequence[Event]) -> DeviceWork:
        """Compute in order of submission, after other work."""
        work = DeviceWork(kernel, after, self._queues.current(), self._changed)
        work.queues, work.copies = self._queues, [event for event in after if isinstance(event, DeviceCopy)]
        if self._submit(work, at_once=all(_issued(event) for event in after)):
            self._do(work)
            self._end()
        return work

    def settle(self) -> None:
        """Wait until the device has ended all that was launched."""
        self.drain()
        if self._free is not None:
            self._queues.wait(self._free)

    def _do(self, work: DeviceWork) -> None:
        try:
            assert work.kernel is not None
            for event in work.after:
                if isinstance(event, (DeviceCopy, DeviceWork)):
                    event.precede(work.stream)
                else:
                    event.result()
            begin, end = self._queues.event(), self._queues.event()
            begin.record(work.stream)
            value = self._queues.run(work.stream, work.kernel)
            end.record(work.stream)
            work.free, work.begin, work.end, self._free = self._free, begin, end, end
            error = None
        except BaseException as caught:  # whatever it is belongs to the caller, not to this thread
            value, error = None, caught
        work.finish(value, error)


def _issued(event: Event) -> bool:
    """Whether a stream can be told to wait for it now."""
    return event.issued if isinstance(event, (DeviceCopy, DeviceWork)) else event.done
