"""A command in a process of its own that is asked to end at a moment, and how it ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

LOOK_S = 0.002
MOST_S = 2.0  # from the request to the end, without the time in which others had the processor
PATIENCE_S = 20.0  # after which the process is killed, whatever the machine is busy with
OUT = "out"


class Ask(NamedTuple):
    """A request to end, so long after the process began to hear such; `again_s`: so long after it, the same again.

    `cold`: of a new Python; otherwise of a fork that has all imported.
    """

    after_s: float
    number: int = signal.SIGINT
    again_s: float | None = None
    cold: bool = False


class End(NamedTuple):
    """Exit code, seconds in all and since the first request (0 for none), `ended_s` without waits for a processor."""

    code: int
    took_s: float
    ended_s: float
    asked: bool
    said: str

    def faults(self, number: int) -> list[str]:
        """Names of promises that were broken by one that was asked to end; it may have been at its end already."""
        found = []
        if "Traceback" in self.said or "Exception ignored" in self.said:
            found.append("traceback")
        if self.ended_s > MOST_S:
            found.append("slow")
        if self.asked and self.code and (self.code != 128 + number or "hetsched: interrupted" not in self.said):
            found.append(f"code {self.code} when interrupted")
        if not self.asked and self.code not in (0, 1):
            found.append(f"ended by {self.code}")
        return found


def asked(words: Sequence[str], folder: Path, ask: Ask | None, *, keep: bool = False) -> End:
    """Run it with `out` in `folder` as its working folder, which is new and empty, or `keep`: as it was left."""
    out, log = folder / OUT, folder.parent / f"{folder.name}.log"
    if not keep:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
    begin_s = time.monotonic()
    pid = os.fork()
    if not pid:
        _child(words, out, log, ask is not None and ask.cold)
    code, was_asked, ended_s = _awaited(pid, ask)
    return End(code, time.monotonic() - begin_s, ended_s, was_asked, log.read_bytes().decode("utf-8", "replace"))


def _child(words: Sequence[str], out: Path, log: Path, cold: bool) -> None:
    """Never returns."""
    try:
        os.chdir(out)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, target in ((0, os.devnull), (1, os.devnull), (2, str(log))):
            os.dup2(os.open(target, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if number else 0), 0o600), number)
        if cold:
            os.execv(sys.executable, [sys.executable, "-m", "hetsched", *words])
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        from hetsched.__main__ import main

        sys.argv = ["hetsched", *words]
        main()
    except SystemExit as ended:
        _leave(ended.code if isinstance(ended.code, int) else 0)
    except BaseException:
        traceback.print_exc()
    _leave(70)


def _leave(code: int) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _awaited(pid: int, ask: Ask | None) -> tuple[int, bool, float]:
    """Exit code, whether it was asked, seconds since."""
    if ask is None:
        return _code(os.waitpid(pid, 0)[1]), False, 0.0
    if _ended_within(pid, PATIENCE_S, or_hears=True) or _ended_within(pid, ask.after_s):
        return _code(os.waitpid(pid, 0)[1]), False, 0.0
    waited_s, begin_s = _waited_s(pid), time.monotonic()
    os.kill(pid, ask.number)
    if ask.again_s is not None and not _ended_within(pid, ask.again_s):
        os.kill(pid, ask.number)
    if not _ended_within(pid, PATIENCE_S):
        os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    ended_s = time.monotonic() - begin_s - (_waited_s(pid) - waited_s)
    return _code(os.waitpid(pid, 0)[1]), True, ended_s


def _code(status: int) -> int:
    return os.waitstatus_to_exitcode(status)


def _ended_within(pid: int, limit_s: float, *, or_hears: bool = False) -> bool:
    """Whether the process is at its end within so long; `or_hears`: or as soon as it hears requests to end."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s and not (or_hears and _hears(pid)):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return True
        time.sleep(min(LOOK_S, limit_s))
    return False


def _hears(pid: int) -> bool:
    """Whether it has a handler for SIGTERM; before that, the system or Python ends it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def _waited_s(pid: int) -> float:
    """Seconds in which the main thread was ready and others had the processor; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0
