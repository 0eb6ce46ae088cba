"""The GPU lane of a real device: a serial queue, timed by device events.

GPU work goes to the stream that its caller is on. It then follows the caller's own device work and precedes what the
caller does next without an event in between, and torch's allocator sees one stream only. Work whose copies are all on
the copy stream already is launched by the caller at once; other work is launched in order by the lane's thread, since a
stream can wait only for an event that has been recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..base import Event, LaneError
from ..host_lane import LaneWork, WorkQueue
from .copies import DeviceCopy
from .queues import Queues


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


class DeviceLane(WorkQueue):
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
