"""Copies to a device: chunk by chunk, so that an urgent copy waits for two chunks and not for a queue.

A stream is first in, first out, so the order is kept on the host: at most DEPTH chunks are on the stream, and a thread
that sleeps on the oldest one's event puts the next there. Two keep the link busy while the thread wakes up (4 MiB at
25 GB/s are 170 us); a submitted copy's first chunk goes from the caller's own thread when there is room. Polling from
the engine's calls instead would let the link idle through a long dense part, and host callbacks in a stream may not
call the driver.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..base import Cancelled, LaneError
from .queues import Queues

DEPTH = 2
URGENT, BACKGROUND = 0, 1


@dataclass(eq=False)
class DeviceCopy:
    """One copy and its completion; urgent ones first, then in order of submission."""

    urgency: int
    number: int
    source: torch.Tensor
    target: torch.Tensor
    seconds: float
    chunk_bytes: int
    after: Any
    staged: bool
    changed: threading.Condition
    marks: list[tuple[Any, Any]] = field(default_factory=list)
    error: BaseException | None = None
    stall_s: float = 0.0

    def __lt__(self, other: DeviceCopy) -> bool:
        return (self.urgency, self.number) < (other.urgency, other.number)

    @property
    def chunks(self) -> int:
        """How many pieces it travels in."""
        return max(1, -(-len(self.source) // self.chunk_bytes))

    @property
    def chunk_s(self) -> float:
        """Seconds of one chunk, by the profile."""
        return self.seconds / self.chunks

    @property
    def issued(self) -> bool:
        """Whether all of it is on the stream, or never will be."""
        return self.error is not None or len(self.marks) == self.chunks

    @property
    def done(self) -> bool:
        """Whether it has arrived, or failed."""
        return self.error is not None or (self.issued and bool(self.marks[-1][1].query()))

    @property
    def failed(self) -> bool:
        """Whether it ended with an error."""
        return self.error is not None

    @property
    def busy_s(self) -> float:
        """Device seconds of its chunks; valid once done."""
        return float(sum(begin.elapsed_time(end) for begin, end in self.marks)) / 1e3 if not self.failed else 0.0

    @property
    def last(self) -> Any:
        """The event of its arrival; valid once issued."""
        return self.marks[-1][1]

    def precede(self, stream: Any) -> None:
        """Let `stream` wait for it; the host waits only until all of it is on its own stream."""
        with self.changed:
            self.changed.wait_for(lambda: self.issued)
        self._raise()
        stream.wait_event(self.last)

    def result(self) -> None:
        """Wait until it has arrived. Raises LaneError with the cause, or Cancelled."""
        with self.changed:
            self.changed.wait_for(lambda: self.done)
        self._raise()

    def _raise(self) -> None:
        if isinstance(self.error, Cancelled):
            raise Cancelled(str(self.error))
        if self.error is not None:
            raise LaneError(f"a copy failed: {self.error}") from self.error

    def next_chunk(self) -> slice:
        """The bytes that go next."""
        begin = len(self.marks) * self.chunk_bytes
        return slice(begin, min(begin + self.chunk_bytes, len(self.source)))


@dataclass
class Flying:
    """A chunk on the stream, the event of its end, and the staging memory it reads."""

    copy: DeviceCopy
    end: Any
    staging: torch.Tensor | None


class CopyEngine:
    """The copy stream, the queue before it, and the thread that feeds it."""

    def __init__(self, queues: Queues, chunk_bytes: int) -> None:
        self._queues = queues
        self._chunk_bytes = chunk_bytes
        self._stream = queues.stream()
        self._changed = threading.Condition(threading.RLock())
        self._waiting: list[DeviceCopy] = []
        self._flying: deque[Flying] = deque()
        self._unfinished: list[DeviceCopy] = []
        self._numbers = itertools.count()
        self._moved_s = 0.0  # when the head of the stream last changed, on the host's clock
        self._free_staging: list[torch.Tensor] = []
        self._stopped = False
        self._at_end: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="hetsched-copy", daemon=True)
        self._thread.start()

    def submit(self, source: torch.Tensor, target: torch.Tensor, seconds: float, urgent: bool) -> DeviceCopy:
        """Queue a copy of uint8 [n]. It starts after what the caller's stream holds now."""
        after = self._queues.event()
        after.record(self._queues.current())
        urgency, staged = URGENT if urgent else BACKGROUND, not self._queues.is_pinned(source)
        with self._changed:
            if self._stopped:
                raise Cancelled("the accelerator is closed")
            order = urgency, next(self._numbers)
            copy = DeviceCopy(*order, source, target, seconds, self._chunk_bytes, after, staged, self._changed)
            heapq.heappush(self._waiting, copy)
            self._unfinished.append(copy)
            self._feed()
            self._changed.notify_all()
        return copy

    def promote(self, copy: DeviceCopy) -> None:
        """Make a waiting copy urgent."""
        with self._changed:
            copy.urgency = URGENT
            heapq.heapify(self._waiting)

    def pending(self) -> tuple[float, list[tuple[DeviceCopy, float]]]:
        """Seconds until an urgent copy would start, and each unfinished copy with the seconds until it ends.

        By the profile's seconds for what waits, less the time since the chunk at the head began to move.
        """
        with self._changed:
            self._unfinished = [copy for copy in self._unfinished if not copy.done]
            ends, at_s = {}, 0.0
            for flying in self._flying:
                if not flying.end.query():
                    at_s += flying.copy.chunk_s
                    ends[flying.copy] = at_s
            since_s = min(time.perf_counter() - self._moved_s, self._flying[0].copy.chunk_s) if at_s else 0.0
            at_s, urgent_s = at_s - since_s, at_s - since_s
            ends = {copy: end_s - since_s for copy, end_s in ends.items()}
            for copy in sorted(self._waiting):
                at_s += (copy.chunks - len(copy.marks)) * copy.chunk_s
                ends[copy] = at_s
                urgent_s = at_s if copy.urgency == URGENT else urgent_s
            left = [(copy, max(0.0, ends.get(copy, 0.0))) for copy in self._unfinished]
            return max(0.0, urgent_s), sorted(left, key=lambda item: item[1])

    def cancel(self) -> None:
        """Give up what waits, and wait for the chunks on the stream."""
        with self._changed:
            self._drop_waiting()
            self._changed.wait_for(lambda: not self._flying)
            self._unfinished.clear()

    def abandon(self, at_end: Callable[[], None]) -> None:
        """Let the thread end and call `at_end`, when what is on the stream has arrived; waits for neither."""
        with self._changed:
            self._at_end, self._stopped = at_end, True
            self._drop_waiting()

    def close(self) -> None:
        """Cancel, and end the thread. May be called twice."""
        with self._changed:
            self._stopped = True
        self.cancel()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()
        self._free_staging.clear()

    def _drop_waiting(self) -> None:
        dropped, self._waiting = self._waiting, []
        for copy in dropped:
            copy.error = Cancelled("cancelled while waiting")
        self._changed.notify_all()

    def _feed(self) -> None:
        """Put chunks of pinned memory on the stream while there is room; staged ones are the thread's work."""
        while self._waiting and len(self._flying) < DEPTH and not self._waiting[0].staged:
            copy = self._waiting[0]
            self._issue(copy, copy.source[copy.next_chunk()], None)

    def _issue(self, copy: DeviceCopy, source: torch.Tensor, staging: torch.Tensor | None) -> None:
        begin, end = self._queues.event(), self._queues.event()
        chunk = copy.next_chunk()
        try:
            if not copy.marks:
                self._stream.wait_event(copy.after)
            begin.record(self._stream)
            self._queues.copy(self._stream, source, copy.target[chunk])
            end.record(self._stream)
        except Exception as error:  # whatever it is belongs to whoever waits for this copy
            self._drop(copy, error)
            if staging is not None:
                self._free_staging.append(staging)
            return
        if not self._flying:
            self._moved_s = time.perf_counter()
        copy.marks.append((begin, end))
        self._flying.append(Flying(copy, end, staging))
        if copy.issued:
            self._waiting.remove(copy)
            heapq.heapify(self._waiting)
            self._changed.notify_all()

    def _drop(self, copy: DeviceCopy, error: BaseException) -> None:
        copy.error = error
        if copy in self._waiting:
            self._waiting.remove(copy)
            heapq.heapify(self._waiting)
        self._changed.notify_all()

    def _run(self) -> None:
        for staged, oldest in iter(self._next, None):
            if staged is not None:
                self._stage(staged)
            elif oldest is not None:
                self._retire(oldest)
        self._at_end()

    def _next(self) -> tuple[DeviceCopy | None, Flying | None] | None:
        """What the thread does next: fill staging memory where there is room, else see the oldest chunk out."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._flying or self._waiting)
            if self._stopped and not self._flying:
                return None
            self._feed()
            if self._waiting and len(self._flying) < DEPTH:
                return self._waiting[0], None
            return None, (self._flying[0] if self._flying else None)

    def _stage(self, copy: DeviceCopy) -> None:
        """Bring one chunk of pageable memory into pinned memory with one thread, then onto the stream."""
        chunk = copy.next_chunk()
        try:
            staging = self._free_staging.pop() if self._free_staging else self._queues.pinned((self._chunk_bytes,))
            filled = staging[: chunk.stop - chunk.start]
            # NumPy's copy is one memcpy without the interpreter lock; torch's would start threads beside the CPU lane.
            filled.numpy()[:] = copy.source[chunk].numpy()
        except Exception as error:  # no pinned memory left, or a source that cannot be read
            with self._changed:
                self._drop(copy, error)
            return
        with self._changed:
            if copy.error is None:
                self._issue(copy, filled, staging)
            else:
                self._free_staging.append(staging)

    def _retire(self, oldest: Flying) -> None:
        error: BaseException | None = None
        try:
            self._queues.wait(oldest.end)
        except Exception as caught:  # the device's, found while waiting
            error = caught
        with self._changed:
            self._flying.popleft()
            self._moved_s = time.perf_counter()
            if oldest.staging is not None:
                self._free_staging.append(oldest.staging)
            if error is not None:
                self._drop(oldest.copy, error)
            self._feed()
            self._changed.notify_all()
