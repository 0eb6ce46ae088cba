"""CopyWatch: ends a layer's wait for copies that are overdue, by cancelling the accelerator's work."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Collection

from ..accelerators.base import Event


class CopyWatch:
    """One thread that sleeps while no copy is waited for; arming it costs the waiting thread two stores.

    `look_s`: between two looks. It relies on cancel() ending what waits. A driver that never returns from a wait is
    beyond it: Ctrl-C, or the driver's own watchdog, which fails the copy. The thread holds nothing while it sleeps and
    ends with the watch, closed or not.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self.look_s = 1.0
        self._cancel = cancel
        self._copies: Collection[Event] = ()
        self._due_s = math.inf
        self._firing = False
        self._idle = True
        self._stopped = False
        self._deciding = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        weakref.finalize(self, self._wake.set).atexit = False

    def arm(self, copies: Collection[Event], limit_s: float) -> None:
        """From now on these copies have `limit_s` on the wall clock."""
        self._copies, self._due_s = copies, time.monotonic() + limit_s
        if self._idle:
            self._rouse()

    def disarm(self) -> bool:
        """End the watch; True when it has cancelled everything. Nothing of that goes on after the return."""
        if self._firing:
            self._cancel()  # beside the thread's own call, which may wait for a clock that only the waiter drove
        with self._deciding:
            self._due_s, self._copies = math.inf, ()
            fired, self._firing = self._firing, False
        return fired

    def close(self) -> None:
        """End the thread. May be called twice."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _rouse(self) -> None:
        if self._thread is None and not self._stopped:
            work = weakref.ref(self), self._wake
            self._thread = threading.Thread(target=_run, args=work, name="hetsched-watch", daemon=True)
            self._thread.start()
        self._wake.set()

    def sleep_s(self) -> float | None:
        """For how long the thread may sleep; None: until it is roused."""
        self._idle = self._due_s == math.inf
        idle = self._idle and self._due_s == math.inf  # again: arm() stores before it looks at _idle
        return None if idle else self.look_s

    def look(self) -> bool:
        """What the thread does when it wakes; whether it goes on."""
        self._idle = False
        self._wake.clear()
        if self._stopped:
            return False
        self._cancel_overdue()
        return True

    def _cancel_overdue(self) -> None:
        with self._deciding:
            overdue = time.monotonic() >= self._due_s
            if overdue and not all(copy.done for copy in self._copies):
                self._firing = True
                self._cancel()


def _run(watch_of: Callable[[], CopyWatch | None], wake: threading.Event) -> None:
    while (watch := watch_of()) is not None:
        seconds = watch.sleep_s()
        del watch
        wake.wait(seconds)
        if (watch := watch_of()) is None or not watch.look():
            return
        del watch
