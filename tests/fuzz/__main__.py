"""`python -m tests.fuzz --cases 20000`: tries so many, and prints what broke the promise and how often.

With `--keep FILE` each verdict is a line there, and the same command goes on where it was left: with numbers that are
not there yet, and with those whose verdict was bad. The counts are then those of the whole file. (A folder in memory is
faster: `TMPDIR=/dev/shm`.)
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path

from hetsched import cli

from . import cases, good_files, ground, interruption
from .cheap import make_cheap
from .children import LATE, Ask
from .counts import Counts


def main() -> int:
    """The command; exit code 1 where a promise was broken."""
    args = _parsed()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # of no use once torch is imported
    begin_s, counts = time.monotonic(), Counts(args.keep)
    wanted = range(args.first, args.first + args.cases)
    numbers = [number for number in wanted if counts.is_open(number)]
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        (place / "ground").mkdir()
        good_files.prepare(place / "ground")
        if args.interrupted:
            os.environ["HETSCHED_CACHE"] = str(place / "cache")
            return interruption.soak(place, args.interrupted, args.only, args.keep)
        failed = _undamaged(place)
        if args.undamaged or failed:
            return failed
        ask = LATE._replace(worked_s=args.patience, after_s=args.patience * LATE.after_s)
        more = args.kind, ask, args.keep
        chunks = [(numbers[i :: args.workers], place, i, *more) for i in range(args.workers)]
        with get_context("fork").Pool(args.workers) as pool:
            found = [case for part in pool.starmap(several, chunks) for case in part]
    counts.add(found)
    bad = [case for case in found if case.verdict.faults]
    if args.json:
        print(json.dumps([case._asdict() for case in bad]))
    else:
        for case in sorted(bad, key=lambda case: case.verdict.faults):
            print(_told(case, place))
        print(f"{counts.of(wanted)}; {len(found)} of them now, in {time.monotonic() - begin_s:.0f} s")
    return 1 if bad else 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kind", choices=cases.KINDS, default="any")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep verdicts there, and go on with those")
    text = "processor seconds after which what goes on is interrupted, which then has to end (default: %(default)g)"
    parser.add_argument("--patience", type=float, default=LATE.worked_s, metavar="S", help=text)
    parser.add_argument("--undamaged", action="store_true", help="only whether every command works on good files")
    text = "instead: interrupt every long command so many times, at random moments, by SIGINT and SIGTERM in turn"
    parser.add_argument("--interrupted", type=int, metavar="TIMES", help=text)
    parser.add_argument("--only", default="", metavar="BEGINNING", help="of commands that are interrupted")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _undamaged(place: Path) -> int:
    """Every command once; exit code 1 where one does not work.

    Here and in no process of its own: those that follow find all that commands import imported, and kernels compiled.
    """
    failed = 0
    for command in ground.COMMANDS:
        folder = place / "whole"
        cases.laid(place / "ground", folder, command.words, command.reads)
        os.environ["HETSCHED_CACHE"] = str(folder / "cache")
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            code = cli.main(cases.filled(command.words, folder))
        shutil.rmtree(folder)
        if code != command.code:
            failed = 1
            print(f"{command.line}: code {code}: {said.getvalue()}")
    return failed


def several(numbers: list[int], place: Path, worker: int, kind: str, ask: Ask, keep: Path | None) -> list[cases.Case]:
    """The cases of one worker; broken promises are told as they are found."""
    make_cheap()
    found = []
    for number in numbers:
        case = cases.tried(number, place / "ground", place / f"case{worker}", kind, ask)
        Counts.write(keep, case)
        print(f"\n{_told(case, place)}" if case.verdict.faults else ".", end="", file=sys.stderr, flush=True)
        found.append(case)
    print(file=sys.stderr)
    return found


def _told(case: cases.Case, place: Path) -> str:
    shown = " ".join(word[:60] for word in case.words).replace(f"{place}/", "")
    said = "\n    ".join(case.verdict.said.strip().splitlines()[-3:])[:600]
    head = f"{case.number}: {', '.join(case.verdict.faults)}, code {case.verdict.code}, {case.verdict.seconds:.1f} s"
    return f"{head}: {shown!r} {case.done}\n    {said}"


if __name__ == "__main__":
    raise SystemExit(main())
