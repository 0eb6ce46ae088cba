"""One case: a command line in a process of its own, forked from one that has imported everything, and its verdict."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hetsched.cli.generating import NO_NUMBERS

PATIENCE_S, GRACE_S = 5.0, 2.0  # work that is still going on is interrupted then, and has to end within the second
SPEED = float(os.environ.get("FUZZ_SLOWER", "4"))  # a shared machine may be so many times slower
MEMORY_BYTES = 3 << 30  # more than the parent had: what a measured layer of a big model takes
OUT = "out"
INTERNAL = "(--debug shows where)"


class Verdict(NamedTuple):
    """`faults`: names of promises that were broken; none is well. `said`: standard error."""

    code: int
    seconds: float
    faults: tuple[str, ...]
    said: str


class Ask(NamedTuple):
    """A request to end, so long after the beginning; `again_s`: so long after it, the same again."""

    after_s: float
    number: signal.Signals = signal.SIGINT
    again_s: float | None = None


LATE = Ask(PATIENCE_S * SPEED)


def run(words: Sequence[str], folder: Path, ask: Ask = LATE, *, keep: bool = False) -> Verdict:
    """Run it with `folder` as the working folder; ask it to end where it goes on.

    `out` in that folder is new and empty; `keep`: as it was left.
    """
    out, log, told = folder / OUT, folder.parent / f"{folder.name}.log", folder.parent / f"{folder.name}.told"
    if not keep:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
    before, begin_s = _listing(folder), time.monotonic()
    pid = os.fork()
    if not pid:
        _child(words, out, log, told)
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
    if (code and any(out.iterdir())) or _listing(folder) != before:
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


def _listing(folder: Path) -> list[tuple[str, int]]:
    """Files and sizes, but for what is in `out`; the cache may gain whole files."""
    paths = [path for path in folder.rglob("*") if OUT not in path.relative_to(folder).parts[:1]]
    kept = [path for path in paths if "cache" not in path.relative_to(folder).parts[:1] or ".tmp" in path.name]
    return sorted((str(path.relative_to(folder)), path.lstat().st_size) for path in kept if not path.is_dir())


def _child(words: Sequence[str], out: Path, log: Path, told: Path) -> None:
    """Never returns."""
    code = 70
    try:
        os.chdir(out)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, target in ((0, os.devnull), (1, str(told)), (2, str(log))):
            os.dup2(os.open(target, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if number else 0), 0o600), number)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        from hetsched.__main__ import main

        sys.argv = ["hetsched", *words]
        code = main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if code is not None else 0)


def _awaited(pid: int, ask: Ask) -> tuple[int, bool, bool, resource.struct_rusage]:
    """Exit code, whether it had to be interrupted, whether that helped not, and what it used."""
    requests = [(ask.after_s, ask.number), (GRACE_S * SPEED, signal.SIGKILL)]
    if ask.again_s is not None:
        requests[1:1] = [(ask.again_s, ask.number)]
    for i, (limit_s, number) in enumerate(requests):
        end_s = time.monotonic() + limit_s
        while time.monotonic() < end_s:
            done, status, used = os.wait4(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status), i > 0, False, used
            time.sleep(0.005)
        os.kill(pid, number)
    _, status, used = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), True, True, used
