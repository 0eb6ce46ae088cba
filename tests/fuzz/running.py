"""One case: work in a process of its own, and its verdict."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from hetsched.errors import NO_NUMBERS

from .children import LATE, Ask, Task, ended

MEMORY_BYTES = 3 << 30  # more than the parent had: what a measured layer of a big model takes
OUT, CACHE = "out", "cache"
ZEN = re.compile(r"The Zen of Python.*?more of those!\n", re.DOTALL)  # what a module says itself when it is imported
INTERNAL = "(--debug shows where)"


class Verdict(NamedTuple):
    """`faults`: names of promises that were broken; none is well. `said`: standard error."""

    code: int
    seconds: float
    faults: tuple[str, ...]
    said: str


def run(
    words: Sequence[str],
    folder: Path,
    ask: Ask = LATE,
    *,
    keep: bool = False,
    alone: bool = True,
    work: Callable[[], object] | None = None,
) -> Verdict:
    """Run a command line with `folder` as the working folder; ask it to end where it goes on.

    `out` in that folder is new and empty; `keep`: as it was left. `alone`: in a process that did nothing before.
    `work`: instead of the command line, whose words are then only what the case is called.
    """
    out, log, told = folder / OUT, folder.parent / f"{folder.name}.log", folder.parent / f"{folder.name}.told"
    if not keep:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
    before, made, begin_s = _listing(folder), os.listdir(out), time.monotonic()
    code, interrupted, hung, peak_bytes = ended(Task(words, str(out), str(told), str(log)), ask, work, alone=alone)
    said = ZEN.sub("", log.read_bytes().decode("utf-8", "replace"))
    faults = []
    if hung:
        faults.append("hang")
    elif interrupted:
        faults += _answered(code, said, 128 + signal.SIGINT)
    else:
        faults += _broken(code, said) or (_untold(told.read_bytes()) if "--json" in words and code < 2 else [])
    if peak_bytes > (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) + MEMORY_BYTES:
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
