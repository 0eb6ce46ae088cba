"""The command, with next to nothing imported before a Ctrl-C or a request to end can be answered in one line.

What is left is Python's own start and the few modules below: there Python answers for itself.
"""

from __future__ import annotations

import contextlib
import signal
import sys

from hetsched.errors import Terminated
from hetsched.signals import INTERRUPTED, TERMINATED, asked, code_of, leave_at_once, listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


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
            code = code_of(request)
            _say("hetsched: interrupted before anything was done")
    if code in (INTERRUPTED, TERMINATED):  # a solver's thread may still be at work
        leave_at_once(code)
    sys.exit(code)


def _stop_listening() -> None:
    """What is left to do is Python's own farewell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
