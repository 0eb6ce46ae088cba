"""One case: work in a process of its own, forked from one that has imported everything, and its verdict.

Patience is in processor seconds, so that a busy machine makes nothing a hang; what waits and does nothing has a minute.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hetsched.cli.generating import NO_NUMBERS

WORKED_S, WAITED_S = 1.5, 20.0  # processor seconds, and seconds, after which what is still going on is interrupted
GRACE_S, IDLE_S = 2.0, 60.0  # the same of what was interrupted, after which it hangs
LOOK_S = 0.05
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
MEMORY_BYTES = 3 << 30  # more than the parent had: what a measured layer of a big model takes
OUT, CACHE = "out", "cache"
INTERNAL = "(--debug shows where)"


class Verdict(NamedTuple):
    """`faults`: names of promises that were broken; none is well. `said`: standard error."""

    code: int
    seconds: float
    faults: tuple[str, ...]
    said: str


class Ask(NamedTuple):
    """A request to end, so long after the beginning; `again_s`: so long after it, the same again.

    `worked_s`: or after so many processor seconds, whichever comes first.
    """

    after_s: float
    number: signal.Signals = signal.SIGINT
    again_s: float | None = None
    worked_s: float = math.inf


LATE = Ask(WAITED_S, worked_s=WORKED_S)


def run(
    words: Sequence[str],
    folder: Path,
    ask: Ask = LATE,
    *,
    keep: bool = False,
    work: Callable[[], object] | None = None,
) -> Verdict:
    """Run a command line with `folder` as the working folder; ask it to end where it goes on.

    `out` in that folder is new and empty; `keep`: as it was left. `work`: instead of the command line, whose words are
    then only what the case is called.
    """
    out, log, told = folder / OUT, folder.parent / f"{folder.name}.log", folder.parent / f"{folder.name}.told"
    if not keep:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
    before, made, begin_s = _listing(folder), os.listdir(out), time.monotonic()
    pid = os.fork()
    if not pid:
        _child(work or partial(_command, words), out, log, told)
    code, interrupted, hung, used = _awaited(pid, ask)
    said = log.read_bytes().decode("utf-8", "replace")
    faults = []
    if hung:
        faults.append("hang")
    elif interrupted:
        faults += _answered(code, said, 128 + ask.number)
    else:
        faults += _broken(code, said) or (_untold(told.read_bytes()) if "--json" in words and code < 2 else [])
    if used.ru_maxrss * 1024 > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + MEMORY_BYTES:
        faults.append("memory")
    if (code and os.listdir(out) != made) or _listing(folder) != before:
        faults.append("leftovers")
    return Verdict(code, time.monotonic() - begin_s, tuple(faults), said)


def _broken(code: int, said: str) -> list[str]:
    """What a command that ended by itself did wrong."""
    errors = [line for line in said.splitlines() if line.startswith("hetsched: ")]
    if "Traceback" in said:
        return ["traceback"]
    if INTERNAL in said:
        return ["internal error"]
    if code not in (0, 1, 2):  # 1: a command that worked, and whose answer is no
        return [f"ended by {code}"]
    if code == 2 and NO_NUMBERS in said:  # found by the work itself, whose beginning was told
        return []
    if code == 2 and (said.rstrip("\n").count("\n") or not errors):
        return ["several lines" if said.strip() else "silent"]
    return []


def _answered(code: int, said: str, right: int) -> list[str]:
    """What a command that was asked to end did wrong; it may have been at its end already."""
    if "Traceback" in said or "Exception ignored" in said:
        return ["traceback when interrupted"]
    if code == 0:
        return []
    return [] if code == right and "hetsched: interrupted" in said else [f"code {code} when interrupted"]


def _untold(told: bytes) -> list[str]:
    """What is wrong with the document that was printed; help and completion scripts are none."""
    text = told.decode("utf-8", "replace").strip()
    if text.startswith(("usage:", "hetsched ", "#")):
        return []
    try:
        json.loads(text, parse_constant=_refused)
    except ValueError:
        return ["no JSON" if text else "nothing printed"]
    return []


def _refused(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


def _listing(folder: Path | str, top: bool = True, in_cache: bool = False) -> list[tuple[str, int]]:
    """Files and sizes, but for what is in `out`; the cache may gain whole files."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if top and entry.name == OUT:
                continue
            if entry.is_dir(follow_symlinks=False):
                found += _listing(entry.path, False, in_cache or (top and entry.name == CACHE))
            elif not in_cache or ".tmp" in entry.name:
                found.append((entry.path, entry.stat(follow_symlinks=False).st_size))
    return sorted(found)


def _command(words: Sequence[str]) -> None:
    """The command line, as the shell calls it."""
    from hetsched.__main__ import main

    sys.argv = ["hetsched", *words]
    main()


def _child(work: Callable[[], object], out: Path, log: Path, told: Path) -> None:
    """Never returns."""
    code = 70
    try:
        os.chdir(out)
        os.environ["HETSCHED_CACHE"] = str(out.parent / CACHE)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, target in ((0, os.devnull), (1, str(told)), (2, str(log))):
            os.dup2(os.open(target, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if number else 0), 0o600), number)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        work()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _awaited(pid: int, ask: Ask) -> tuple[int, bool, bool, resource.struct_rusage]:
    """Exit code, whether it had to be interrupted, whether that helped not, and what it used."""
    again = [] if ask.again_s is None else [(ask.again_s, math.inf, ask.number)]
    requests = [(ask.after_s, ask.worked_s, ask.number), *again, (IDLE_S, GRACE_S, signal.SIGKILL)]
    gone, sent = os.pidfd_open(pid), 0
    for after_s, worked_s, number in requests:
        if _ends(pid, gone, after_s, worked_s):
            break
        os.kill(pid, number)
        sent += 1
    os.close(gone)
    _, status, used = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), sent > 0, sent == len(requests), used


def _ends(pid: int, gone: int, after_s: float, worked_s: float) -> bool:
    """Whether a process ends within so many seconds, of which it works for no more than `worked_s`."""
    poll = select.poll()
    poll.register(gone, select.POLLIN)
    end_s, most_s = time.monotonic() + after_s, _worked_s(pid) + worked_s
    while not poll.poll(1 + 1000 * max(0.0, min(LOOK_S, end_s - time.monotonic()))):
        if time.monotonic() >= end_s or _worked_s(pid) >= most_s:
            return False
    return True


def _worked_s(pid: int) -> float:
    """Processor seconds of a process, with the system's for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S
