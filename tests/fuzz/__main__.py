"""`python -m tests.fuzz --cases 20000`: tries so many, and prints what broke the promise and how often."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

from . import cases, ground, interruption
from .running import run


def ready() -> None:
    """Import what commands import, so that each begins at once."""
    import matplotlib.pyplot  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import hetsched.integrations.transformers
    import hetsched.loading.load
    import hetsched.replay.study  # noqa: F401

    torch.set_num_threads(1)


def main() -> int:
    """The command; exit code 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kind", choices=("any", "files", "options"), default="any")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--undamaged", action="store_true", help="only whether every command works on good files")
    text = "instead: interrupt every long command so many times, at random moments, by SIGINT and SIGTERM in turn"
    parser.add_argument("--interrupted", type=int, metavar="TIMES", help=text)
    parser.add_argument("--only", default="", metavar="BEGINNING", help="of commands that are interrupted")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ready()
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        os.environ["HETSCHED_CACHE"] = str(place / "cache")
        (place / "ground").mkdir()
        ground.prepare(place / "ground")
        if args.undamaged:
            return _undamaged(place)
        if args.interrupted:
            return interruption.soak(place, args.interrupted, args.only)
        begin_s = time.monotonic()
        numbers = range(args.first, args.first + args.cases)
        chunks = [(numbers[i :: args.workers], place, i, args.kind) for i in range(args.workers)]
        with get_context("fork").Pool(args.workers) as pool:
            found = [case for part in pool.starmap(several, chunks) for case in part]
    faults = Counter(fault for case in found for fault in case.verdict.faults)
    codes = Counter(case.verdict.code for case in found)
    bad = [case for case in found if case.verdict.faults]
    if args.json:
        print(json.dumps([case._asdict() for case in bad]))
    else:
        for case in sorted(bad, key=lambda case: case.verdict.faults):
            shown = " ".join(word[:60] for word in case.words).replace(str(place), "")
            print(f"{case.number}: {', '.join(case.verdict.faults)}, code {case.verdict.code}: {shown!r} {case.done}")
            print("    " + "\n    ".join(case.verdict.said.strip().splitlines()[-3:])[:600])
        print(
            f"{len(found)} tried in {time.monotonic() - begin_s:.0f} s; exit codes {dict(codes)}; faults {dict(faults)}"
        )
    return 1 if bad else 0


def _undamaged(place: Path) -> int:
    """Every command once; exit code 1 where one does not work."""
    failed = 0
    for command in ground.COMMANDS:
        folder = place / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(place / "ground", folder)
        verdict = run(cases.filled(command.words, folder), folder)
        if verdict.code or verdict.faults:
            failed += 1
            print(f"{' '.join(command.words)}: {verdict}")
    return int(failed > 0)


def several(numbers: range, place: Path, worker: int, kind: str) -> list[cases.Case]:
    """The cases of one worker."""
    found = []
    for number in numbers:
        found.append(cases.tried(number, place / "ground", place / f"case{worker}", kind))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
