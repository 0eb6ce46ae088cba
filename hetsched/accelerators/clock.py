"""A clock that runs slower than the wall's and can be halted: the time of an emulated machine."""

from __future__ import annotations

import threading
import time


class EmulatedClock:
    """Emulated seconds: wall seconds divided by `scale`, less the time it stood halted.

    Halted while the host does arithmetic that the emulated machine would have done elsewhere, so that a slow host gives
    its copy engine no head start. Starts halted.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self._changed = threading.Condition()
        self._elapsed_s = 0.0
        self._running_since: float | None = None

    def now_s(self) -> float:
        """Emulated seconds since the clock was made."""
        with self._changed:
            return self._now_s()

    def run(self) -> None:
        """Let time pass."""
        with self._changed:
            if self._running_since is None:
                self._running_since = time.perf_counter()
                self._changed.notify_all()

    def halt(self, at_s: float | None = None) -> None:
        """Stop time, at `at_s` if given: threads that woke late have not moved it."""
        with self._changed:
            self._elapsed_s = self._now_s() if at_s is None else at_s
            self._running_since = None
            self._changed.notify_all()

    def wait_until(self, moment_s: float, stopped: threading.Event | None = None) -> bool:
        """Sleep until `moment_s`; False when `stopped` was set first (and wake() called)."""
        with self._changed:
            while stopped is None or not stopped.is_set():
                left_s = moment_s - self._now_s()
                if left_s <= 0:
                    return True
                self._changed.wait(None if self._running_since is None else left_s * self.scale)
        return False

    def wait_running(self, before_s: float, stopped: threading.Event) -> bool:
        """Sleep while the clock is halted before `before_s`; False when `stopped` was set first (and wake() called)."""
        with self._changed:
            while self._running_since is None and self._elapsed_s < before_s and not stopped.is_set():
                self._changed.wait()
        return not stopped.is_set()

    def wake(self) -> None:
        """Let every sleeper look at its stop flag."""
        with self._changed:
            self._changed.notify_all()

    def _now_s(self) -> float:
        if self._running_since is None:
            return self._elapsed_s
        return self._elapsed_s + (time.perf_counter() - self._running_since) / self.scale
