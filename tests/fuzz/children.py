"""Processes in which cases are run, forked from one that has imported everything.

One in which nothing has happened but that a command line was refused takes the next case, too, for a fork costs ten
times what a refusal does; any other ends with its case. Patience is in processor seconds, so that a busy machine makes
nothing a hang; what waits and does nothing has some seconds.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

WORKED_S, WAITED_S = 1.0, 8.0  # processor seconds, and seconds, after which what is still going on is interrupted
GRACE_S, IDLE_S = 2.0, 60.0  # the same of what was interrupted, after which it hangs
LOOK_S = 0.05
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
REFUSED, MOST_CASES = 2, 40


class Ask(NamedTuple):
    """Ctrl-C so long after the beginning, or after so many processor seconds, whichever comes first."""

    after_s: float
    worked_s: float = math.inf


LATE = Ask(WAITED_S, worked_s=WORKED_S)


class Task(NamedTuple):
    """A command line, the folder to run it in, and files for standard output and error."""

    words: Sequence[str]
    out: str
    told: str
    log: str


class Ended(NamedTuple):
    """Exit code, whether it had to be interrupted, whether that helped not, and the most memory it had."""

    code: int
    interrupted: bool
    hung: bool
    peak_bytes: int


def ended(task: Task, ask: Ask, work: Callable[[], object] | None, *, alone: bool) -> Ended:
    """How a task ends. `work`: instead of its command line; `alone`: in a process that did nothing before."""
    child = _Child(work) if alone or work is not None or not _waiting else _waiting.pop()
    child.line.send(task)
    found = child.awaited(ask)
    if not child.is_gone and not alone and child.cases < MOST_CASES:
        _waiting.append(child)
    else:
        child.end()
    return found


class _Child:
    """A process that waits for tasks. `cases`: that it has done."""

    def __init__(self, work: Callable[[], object] | None) -> None:
        self.line, theirs = Pipe()
        self.pid = os.fork()
        if not self.pid:
            self.line.close()
            _serve(theirs, work)
        theirs.close()
        self.is_gone, self.cases = False, 0
        self._gone = os.pidfd_open(self.pid)

    def awaited(self, ask: Ask) -> Ended:
        """How the task under way ends."""
        self.cases += 1
        requests = [(ask.after_s, ask.worked_s, signal.SIGINT), (IDLE_S, GRACE_S, signal.SIGKILL)]
        sent = 0
        for after_s, worked_s, number in requests:
            if self._ends(after_s, worked_s):
                break
            os.kill(self.pid, number)
            sent += 1
        asked, hung = sent > 0, sent == len(requests)
        with contextlib.suppress(EOFError, ConnectionError):
            if not hung and self.line.poll():
                return Ended(self.line.recv(), asked, hung, self._peak_bytes())
        self.is_gone = True
        _, status, used = os.wait4(self.pid, 0)
        return Ended(os.waitstatus_to_exitcode(status), asked, hung, used.ru_maxrss << 10)

    def end(self) -> None:
        """Let it be gone."""
        if not self.is_gone:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.line.close()
        os.close(self._gone)

    def _ends(self, after_s: float, worked_s: float) -> bool:
        """Whether the task ends within so many seconds, of which it works for no more than `worked_s`."""
        poll = select.poll()
        poll.register(self._gone, select.POLLIN)
        poll.register(self.line, select.POLLIN)
        end_s, most_s = time.monotonic() + after_s, self._worked_s() + worked_s
        while not poll.poll(1 + 1000 * max(0.0, min(LOOK_S, end_s - time.monotonic()))):
            if time.monotonic() >= end_s or self._worked_s() >= most_s:
                return False
        return True

    def _worked_s(self) -> float:
        """Processor seconds so far, with the system's for it."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S

    def _peak_bytes(self) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


_waiting: list[_Child] = []  # one at most


def _serve(line: Connection[Any, Any], work: Callable[[], object] | None) -> None:
    """Never returns."""
    code = 70
    try:
        while True:
            task: Task = line.recv()
            code = _done(task, work)
            if code != REFUSED or work is not None:
                break
            line.send(code)
    finally:
        os._exit(code)


def _done(task: Task, work: Callable[[], object] | None) -> int:
    """The exit code of a task that is done."""
    code = 70
    try:
        os.chdir(task.out)
        os.environ["HETSCHED_CACHE"] = str(Path(task.out).parent / "cache")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, target in ((0, os.devnull), (1, task.told), (2, task.log)):
            opened = os.open(target, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if number else 0), 0o600)
            os.dup2(opened, number)
            os.close(opened)
        sys.stdin, sys.stdout, sys.stderr = (open(n, "w" if n else "r", closefd=False) for n in range(3))  # noqa: SIM115
        if work is None:
            _command(task.words)
        else:
            work()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
    return code


def _command(words: Sequence[str]) -> None:
    """The command line, as the shell calls it."""
    from hetsched.__main__ import main

    sys.argv = ["hetsched", *words]
    main()
