"""Requests to end (Ctrl-C, SIGTERM, SIGHUP): an exception where the program happens to be, and not forgotten.

Python ignores an exception in a callback from C and in a destructor, and a library that is being imported makes another
one of it.

An exception that was raised is kept until the process ends, and with it what the functions that it left were holding. A
call into C that has just ended may have taken over an object that its caller has not let go of yet, as LLVM's linker
does with a module: freeing it would be once too often, and the process would crash instead of ending.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

from .errors import Terminated

ASK_AGAIN_S = 0.02
CLEANING_S = 2.0  # after a request, in which another one does not disturb whoever puts things in order

_asked: list[BaseException] = []
_lost: list[BaseException] = []  # what Python ignored
_kept: list[BaseException] = []
_raised_s: list[float] = []


def listen() -> None:
    """Let requests to end raise KeyboardInterrupt or Terminated in the main thread, but for those handled otherwise."""
    for name, usual in (
        ("SIGINT", signal.default_int_handler),
        ("SIGTERM", signal.SIG_DFL),
        ("SIGHUP", signal.SIG_DFL),
    ):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is usual:
            signal.signal(number, _end)
    sys.unraisablehook = _not_lost


def asked() -> BaseException | None:
    """The first request to end that came, whatever became of its exception; None for none."""
    return _asked[0] if _asked else None


def keep(request: BaseException) -> None:
    """Until the process ends; for one that others have raised, such as a handler of their own."""
    _kept.append(request)


def _end(number: int, frame: FrameType | None) -> None:
    request = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
    _asked.append(request)
    now_s = time.monotonic()
    if _raised_s and now_s - _raised_s[-1] < CLEANING_S and not _lost:
        return  # Ctrl-C was pressed twice, or whoever ends a whole group tells the leader, too
    _lost.clear()
    _raised_s.append(now_s)
    raise request


def _not_lost(ignored: sys.UnraisableHookArgs) -> None:
    """Ask again where Python ignores a request."""
    numbers = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}
    if ignored.exc_type not in numbers:
        sys.__unraisablehook__(ignored)
        return
    import threading  # by then there is time

    _lost.append(ignored.exc_value or ignored.exc_type())
    again = threading.Timer(ASK_AGAIN_S, os.kill, (os.getpid(), numbers[ignored.exc_type]))
    again.daemon = True
    again.start()
