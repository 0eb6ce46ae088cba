"""The command on a pseudo-terminal that is watched while it runs: sizes change, keys are pressed, screens are read."""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable

import pyte

from tests.report.screens import COMMAND, environment

OWN_BEGINS, OWN_ENDS = b"\x1b[?1049h", b"\x1b[?1049l"  # the screen of a program of its own
HOME = b"\x1b[H"  # each drawing begins with it
PATIENCE_S = 500.0  # for what never comes


class Terminal:
    """One run of `hetsched`; `written` is all that it has written so far."""

    def __init__(self, columns: int, rows: int, *arguments: str, **more: str) -> None:
        import pty

        self.columns, self.rows = columns, rows
        self.written = b""
        self._ours, theirs = pty.openpty()
        self._size(theirs)
        self._process = subprocess.Popen(
            [sys.executable, *COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**more)
        )
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever a test has come to, the run does not outlive it."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def until(self, seen: Callable[[bytes], bool]) -> None:
        """Read until `written` satisfies `seen`, or the end."""
        end_s = time.monotonic() + PATIENCE_S
        while not seen(self.written):
            assert time.monotonic() < end_s, self.written.decode(errors="replace")
            if not select.select([self._ours], [], [], 1.0)[0]:
                continue
            try:
                part = os.read(self._ours, 1 << 16)
            except OSError:  # Linux: the other side is closed
                return
            if not part:
                return
            self.written += part

    def resize(self, columns: int, rows: int) -> None:
        """As if the window were pulled."""
        self.columns, self.rows = columns, rows
        self._size(self._ours)
        self._process.send_signal(signal.SIGWINCH)

    def press_ctrl_c(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def ended(self) -> int:
        """Read all there is; the exit code."""
        self.until(lambda _: False)
        os.close(self._ours)
        return self._process.wait(timeout=PATIENCE_S)

    def own_screen(self) -> list[str]:
        """The program's own screen, at its end or as it was last wholly drawn, on a terminal of the last size."""
        assert self.written.count(OWN_BEGINS) == 1
        drawn, ended, _ = self.written.partition(OWN_BEGINS)[2].partition(OWN_ENDS)
        return self._screen(drawn if ended else drawn.rpartition(HOME)[0])

    def after(self) -> list[str]:
        """What stands on the terminal after it."""
        assert self.written.count(OWN_ENDS) == 1
        return self._screen(self.written.partition(OWN_ENDS)[2])

    def _screen(self, written: bytes) -> list[str]:
        screen = pyte.Screen(self.columns, self.rows)
        pyte.ByteStream(screen).feed(written)
        return [line.rstrip() for line in screen.display]

    def _size(self, place: int) -> None:
        import fcntl
        import termios

        fcntl.ioctl(place, termios.TIOCSWINSZ, struct.pack("HHHH", self.rows, self.columns, 0, 0))
