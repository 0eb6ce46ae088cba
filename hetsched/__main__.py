"""The command, with next to nothing imported before a Ctrl-C or a request to end can be answered in one line.

What is left is Python's own start and the few modules below: there Python answers for itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from hetsched.errors import Terminated
from hetsched.signals import asked, listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


def main() -> NoReturn:
    """Run the command line in this process and leave it."""
    code: int | None = None
    try:
        listen()
        try:
            from hetsched.cli import main as run

            code = run()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0
        _stop_listening()
    except BaseException as caught:  # while the command line was being imported, at its very end, or with --debug
        request = asked() or caught
        if not isinstance(request, (KeyboardInterrupt, Terminated)):
            raise
        if code is None:
            code = INTERRUPTED if isinstance(request, KeyboardInterrupt) else TERMINATED
            _say("hetsched: interrupted before anything was done")
    _leave(code)


def _stop_listening() -> None:
    """What is left to do is Python's own farewell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(code: int) -> NoReturn:
    """End the process. After an interruption at once: a solver's thread may still be at work, and is not waited for.

    Nor is anything freed then that was in use: see signals.
    """
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
