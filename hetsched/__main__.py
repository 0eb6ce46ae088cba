"""The command, with next to nothing imported before a Ctrl-C or a request to end can be answered in one line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


def main() -> NoReturn:
    """Run the command line in this process and leave it."""
    from hetsched.errors import Terminated
    from hetsched.signals import asked, listen

    try:
        listen()
        from hetsched.cli import main as run

        code = run()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0
    except BaseException as caught:  # while the command line itself was being imported, or with --debug
        request = asked() or caught
        if not isinstance(request, (KeyboardInterrupt, Terminated)):
            raise
        code = INTERRUPTED if isinstance(request, KeyboardInterrupt) else TERMINATED
        _say("hetsched: interrupted before anything was done")
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process. After an interruption at once: a solver's thread may still be at work, and is not waited for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is Python's own farewell
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
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
