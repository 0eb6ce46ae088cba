"""The command, with nothing imported before a Ctrl-C or a request to end can be answered in one line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
ASK_AGAIN_S = 0.02


def main() -> NoReturn:
    """Run the command line in this process and leave it."""
    from hetsched.errors import Terminated

    try:
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_DFL:
                signal.signal(getattr(signal, name), _end)
        sys.unraisablehook = _not_lost
        from hetsched.cli import main as run

        code = run()
    except (KeyboardInterrupt, Terminated) as caught:  # while the command line itself was being imported
        code = INTERRUPTED if isinstance(caught, KeyboardInterrupt) else TERMINATED
        _say("hetsched: interrupted before anything was done")
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0
    _leave(code)


def _end(number: int, frame: FrameType | None) -> None:
    from hetsched.errors import Terminated

    raise Terminated


def _not_lost(ignored: sys.UnraisableHookArgs) -> None:
    """Ask again where Python ignores a request to stop: it came up in a callback from C, or in a destructor."""
    from threading import Timer

    from hetsched.errors import Terminated

    numbers = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}
    if ignored.exc_type not in numbers:
        sys.__unraisablehook__(ignored)
        return
    again = Timer(ASK_AGAIN_S, os.kill, (os.getpid(), numbers[ignored.exc_type]))
    again.daemon = True
    again.start()


def _leave(code: int) -> NoReturn:
    """End the process. After an interruption at once: a solver's thread may still be at work, and is not waited for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is Python's own farewell
    if code in (INTERRUPTED, TERMINATED):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
