"""Calls into C++ that a Ctrl-C ends at once, whatever the library does with the signal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .signals import asked

T = TypeVar("T")


def interruptible(call: Callable[[], T], stop: Callable[[], None]) -> T:
    """What `call` returns or raises; where an exception reaches the waiting main thread, `stop` and that exception.

    OR-tools keeps the thread that calls it until it has its answer, and MathOpt swallows the KeyboardInterrupt that
    Python raises then. So the call gets a thread of its own, and the main thread waits for it in Python. It does not
    wait for the call to end after `stop`: HiGHS never looks at it. Signals come to the main thread only, so any other
    thread calls directly.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    lost = asked()
    if lost is not None:  # a library has swallowed its exception
        raise lost
    outcome = _Outcome(call)
    try:
        threading.Thread(target=outcome.fill, name="solver", daemon=True).start()
        outcome.ready.wait()
    except BaseException:
        stop()
        raise
    return outcome.result()


class _Outcome(Generic[T]):
    """A value or an exception, filled in by another thread."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.ready = threading.Event()
        self._call = call
        self._value: list[T] = []
        self._error: BaseException | None = None

    def fill(self) -> None:
        try:
            self._value.append(self._call())
        except BaseException as error:  # belongs to the thread that waits
            self._error = error
        finally:
            self.ready.set()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value[0]


def solve_mathopt(model: Any, kind: Any, **settings: Any) -> Any:
    """mathopt.solve(), interruptible: a SolveResult."""
    from ortools.math_opt.python import mathopt
    from ortools.util.python.solve_interrupter import SolveInterrupter

    interrupter = SolveInterrupter()
    return interruptible(lambda: mathopt.solve(model, kind, interrupter=interrupter, **settings), interrupter.interrupt)
