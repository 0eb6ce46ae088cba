"""Requests to end (Ctrl-C, SIGTERM, SIGHUP): an exception where the program happens to be, and not forgotten.

Python ignores an exception in a callback from C and in a destructor; it is asked again a little later.

Nothing is raised while a module is being imported: a library makes another exception of it, or cannot bear it, as
torch, whose C++ ends the process by abort(). The request waits for the import, and where that takes long the process
leaves at once: imports come before there is anything to be put in order.

An exception that was raised is kept until the process ends, and with it what the functions that it left were holding. A
call into C that has just ended may have taken over an object that its caller has not let go of yet, as LLVM's linker
does with a module: freeing it would be once too often, and the process would crash instead of ending.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import time
from types import FrameType

from .errors import Terminated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

ASK_AGAIN_S = 0.02
IMPORT_S = 1.0  # that a request waits for an import
CLEANING_S = 2.0  # after a request, in which another one does not disturb whoever puts things in order
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
_IMPORT_FILE = "<frozen importlib._bootstrap>"

_asked: list[BaseException] = []
_lost: list[BaseException] = []  # what Python ignored
_kept: list[BaseException] = []
_raised_s: list[float] = []
_waits_s: list[float] = []  # when a request that waits for an import came


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


def code_of(request: BaseException) -> int:
    """The exit code of a process that was asked to end."""
    return TERMINATED if isinstance(request, Terminated) else INTERRUPTED


def leave_at_once(code: int) -> NoReturn:
    """End the process as it is: no thread is waited for, and nothing is freed that was in use."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # nobody reads any more, or it is being written to
            stream.flush()
    os._exit(code)


def _end(number: int, frame: FrameType | None) -> None:
    request = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
    now_s = time.monotonic()
    _asked.append(request)
    if _raised_s and now_s - _raised_s[-1] < CLEANING_S and not _lost:
        return  # Ctrl-C was pressed twice, or whoever ends a whole group tells the leader, too
    if _imports(frame):
        _waits_s.append(now_s)
        if now_s - _waits_s[0] > IMPORT_S:
            os.write(2, b"hetsched: interrupted while it was starting\n")
            leave_at_once(code_of(_asked[0]))
        _ask_again(number)
        return
    _lost.clear()
    _waits_s.clear()
    _raised_s.append(now_s)
    keep(request)
    raise request


def _imports(frame: FrameType | None) -> bool:
    """Whether this code is called by a module that is being imported."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT_FILE:
            return True
        frame = frame.f_back
    return False


def _ask_again(number: int) -> None:
    """By a bare thread: the module that makes better ones may be the one that is being imported."""

    def ask() -> None:
        time.sleep(ASK_AGAIN_S)
        os.kill(os.getpid(), number)

    _thread.start_new_thread(ask, ())


def _not_lost(ignored: sys.UnraisableHookArgs) -> None:
    """Ask again where Python ignores a request."""
    numbers = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}
    if ignored.exc_type not in numbers:
        sys.__unraisablehook__(ignored)
        return
    _lost.append(ignored.exc_value or ignored.exc_type())
    _ask_again(numbers[ignored.exc_type])
