"""The time of an emulated machine: it stands still until its owner lets a stretch of it pass."""

from __future__ import annotations

import os
import select
import threading
import time

MAX_SCALE = 10_000.0  # wall seconds an emulated one; at it a second takes three hours
POLLED_S = 5e-4  # wall seconds at the end of a wait in which the clock is polled, as CUDA's own waits do


class EmulatedClock:
    """Emulated seconds since it was made, `scale` wall seconds each. Only its owner's thread moves it.

    While it stands, the host may take as long as it likes: no lane gets a head start. `due_s`: wall seconds that it
    should have slept in all; `slept_s`: that it did.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.now_s = 0.0
        self.due_s = 0.0
        self.slept_s = 0.0
        self._moving = threading.Lock()
        self._stopped = threading.Event()
        self._since_s: float | None = None
        self._until_s = 0.0

    def advance(self, until_s: float, spent_s: float = 0.0) -> None:
        """Sleep until `until_s`; it is exactly that then, however late the host wakes. Returns at once if stopped.

        `spent_s`: wall seconds of it that have passed already.
        """
        due_s, begin_s = max(0.0, (until_s - self.now_s) * self.scale - spent_s), time.perf_counter()
        self._until_s, self._since_s = until_s, begin_s
        if due_s > POLLED_S:
            self._stopped.wait(min(due_s - POLLED_S, threading.TIMEOUT_MAX))
        while time.perf_counter() < begin_s + due_s and not self._stopped.is_set():
            _yield()  # a core that fell asleep wakes with cold caches, and what it does next takes twice as long
        with self._moving:
            if not self._stopped.is_set():
                self.now_s = until_s
            self._since_s = None
        self.due_s += due_s
        self.slept_s += time.perf_counter() - begin_s

    def stop(self) -> None:
        """Let time stand where it has come to, until start(); any thread may say so."""
        with self._moving:
            if self._since_s is not None and not self._stopped.is_set():
                passed_s = (time.perf_counter() - self._since_s) / self.scale
                self.now_s = min(self._until_s, self.now_s + passed_s)
            self._stopped.set()

    def start(self) -> None:
        """Time may pass again."""
        self._stopped.clear()


def _yield() -> None:
    """Let other threads have the interpreter, and come back at once; sleeping for 0 s takes 60 µs on Linux."""
    if os.name == "posix":
        select.select((), (), (), 0)
    else:
        time.sleep(0)
