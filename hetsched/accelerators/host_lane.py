"""Lanes of the host, timed by its clock: a queue that a thread serves, and one that whoever waits serves."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .base import Cancelled, Event, LaneError


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


class WorkQueue:
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


class HostLane(WorkQueue):
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


class CallersWork:
    """Work of the CPU lane that is done by the thread that asks for its result: no other has to be woken."""

    def __init__(self, kernel: Callable[[], Any], after: Sequence[Event]) -> None:
        self.kernel: Callable[[], Any] | None = kernel
        self.after = after
        self.busy_s = 0.0
        self.stall_s = 0.0
        self._value: Any = None
        self._error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether it has been done, well or not."""
        return self.kernel is None

    @property
    def failed(self) -> bool:
        """Whether it ended with an error."""
        return self._error is not None

    def do(self) -> None:
        """Do it, unless that has been done; an error is kept for result()."""
        if self.kernel is None:
            return
        kernel, after, begin_s = self.kernel, self.after, time.perf_counter()
        try:
            for event in after:
                event.result()
            self.stall_s = time.perf_counter() - begin_s
            self._value, self._error = kernel(), None  # also where another thread has cancelled it meanwhile
        except Exception as error:
            self._error = error
        self.busy_s = time.perf_counter() - begin_s - self.stall_s
        self.kernel, self.after = None, ()

    def cancel(self) -> None:
        """Let it never be done, unless that has been."""
        if self.kernel is not None:
            self.kernel, self.after, self._error = None, (), Cancelled("cancelled while waiting")

    def result(self) -> Any:
        """Do it now unless it is done, then the value. Raises LaneError with the cause, or Cancelled."""
        self.do()
        if isinstance(self._error, Cancelled):
            raise Cancelled(str(self._error))
        if self._error is not None:
            raise LaneError(f"work in a lane failed: {self._error}") from self._error
        return self._value


class CallersLane:
    """The CPU lane of a caller that computes while it waits for the other lanes."""

    def __init__(self) -> None:
        self._waiting: list[CallersWork] = []
        self._closed = False

    def launch(self, kernel: Callable[[], Any], after: Sequence[Event]) -> CallersWork:
        """What is to be computed, after other work."""
        if self._closed:
            raise Cancelled("the accelerator is closed")
        work = CallersWork(kernel, after)
        self._waiting = [*(other for other in self._waiting if not other.done), work]
        return work

    def cancel(self) -> None:
        """Give up what waits."""
        for work in self._waiting:
            work.cancel()
        self._waiting = []

    def close(self) -> None:
        """Cancel, and take no more. May be called twice."""
        self._closed = True
        self.cancel()
