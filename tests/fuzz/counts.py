"""Verdicts of cases, kept in a file, a line each, of which the last counts; and how many there are of each kind."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from .cases import Case

FAULTS = ("traceback", "internal error", "ended by", "several lines", "silent", "hang", "memory", "leftovers")
Kept: TypeAlias = tuple[int, list[str]]  # exit code, and promises that were broken


class Counts:
    """What is known of cases by their numbers; `keep`: a file that may be there already."""

    def __init__(self, keep: Path | None = None) -> None:
        self._kept: dict[int, Kept] = {}
        if keep is not None and keep.exists():
            for line in keep.read_text().splitlines():
                entry = json.loads(line)
                self._kept[entry["number"]] = entry["code"], entry["faults"]

    @staticmethod
    def write(keep: Path | None, case: Case) -> None:
        """Append a verdict, with what was tried where it is a bad one."""
        if keep is None:
            return
        code, seconds, faults, said = case.verdict
        entry = {"number": case.number, "code": code, "faults": list(faults), "seconds": round(seconds, 2)}
        more = {"words": case.words, "done": case.done, "said": said[-2000:]} if faults else {}
        with keep.open("a") as file:
            file.write(f"{json.dumps({**entry, **more})}\n")

    def add(self, found: Iterable[Case]) -> None:
        """Verdicts that are new."""
        self._kept |= {case.number: (case.verdict.code, list(case.verdict.faults)) for case in found}

    def is_open(self, number: int) -> bool:
        """Whether a case has no verdict yet, or a bad one."""
        return number not in self._kept or bool(self._kept[number][1])

    def of(self, numbers: Sequence[int]) -> str:
        """How many were tried, how they ended, and every fault that there can be, with 0 for none."""
        kept = [self._kept[number] for number in numbers if number in self._kept]
        codes = Counter(code for code, _ in kept)
        faults = Counter(dict.fromkeys(FAULTS, 0))
        faults.update(fault for _, found in kept for fault in found)
        ended = ", ".join(f"{count} by {code}" for code, count in sorted(codes.items()))
        return f"{len(kept)} tried; ended {ended}; " + ", ".join(f"{fault} {n}" for fault, n in faults.items())
