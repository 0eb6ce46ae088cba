"""Stopwatch: how long a thread spends in chosen functions, each without those inside it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Any

CALIBRATION_CALLS = 2000


class Stopwatch:
    """Wraps functions of live objects, modules or classes, and takes the wrappers off again at the end of `with`.

    Only the thread that made it is timed, by `clock`: seconds of the wall, or of the thread. What a wrapper costs its
    caller, found by wrapping a function that does nothing, is taken off again: it would add up to more than the
    engine's own time.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.now_s = clock
        self._thread = threading.get_ident()
        self._spent_s: dict[str, float] = defaultdict(float)
        self._calls_within: dict[str, int] = defaultdict(int)
        self._open: list[list[Any]] = []  # label, seconds of what is inside
        self._undo: list[Callable[[], None]] = []
        self._cost_s = 0.0

    def __enter__(self) -> Stopwatch:
        self._cost_s = self._cost_of_a_call()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def wrap(self, owner: Any, name: str, label: str) -> None:
        """Time `owner.name` under `label`; several functions may share one. Raises AttributeError where it is not."""
        self.replace(owner, name, self._timed(getattr(owner, name), label))

    def replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        """Let `owner.name` be another function until the end of `with`."""
        own, before = name in vars(owner), getattr(owner, name)
        setattr(owner, name, function)
        self._undo.append(lambda: setattr(owner, name, before) if own else delattr(owner, name))

    def seconds(self) -> dict[str, float]:
        """Seconds of each label so far, without what is inside it and the wrappers' own."""
        return {label: s - self._calls_within[label] * self._cost_s for label, s in self._spent_s.items()}

    def spent_s(self, label: str) -> float:
        """Seconds of one label so far, as measured."""
        return self._spent_s.get(label, 0.0)

    def reset(self) -> None:
        """Forget what was measured."""
        self._spent_s.clear()
        self._calls_within.clear()

    def _timed(self, inner: Callable[..., Any], label: str) -> Callable[..., Any]:
        now_s, opened, spent_s, within = self.now_s, self._open, self._spent_s, self._calls_within
        own_thread, this_thread = self._thread, threading.get_ident

        @wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if this_thread() != own_thread:
                return inner(*args, **kwargs)
            mine: list[Any] = [label, 0.0]
            opened.append(mine)
            begin_s = now_s()
            try:
                return inner(*args, **kwargs)
            finally:
                took_s = now_s() - begin_s
                opened.pop()
                spent_s[label] += took_s - mine[1]
                if opened:
                    outer = opened[-1]
                    outer[1] += took_s
                    within[outer[0]] += 1

        return timed

    def _cost_of_a_call(self) -> float:
        nothing = self._timed(lambda: None, "nothing")

        def many() -> None:
            for _ in range(CALIBRATION_CALLS):
                nothing()

        self._timed(many, "many")()
        cost_s = self._spent_s["many"] / CALIBRATION_CALLS
        self.reset()
        return cost_s
