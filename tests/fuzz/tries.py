"""What came of each try, in a file to which every run adds, so that parts of a soak make a whole."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Try(NamedTuple):
    """One request to end. `asked`: before the command was at its end. `said`: standard error, where it is a fault."""

    command: str
    number: int
    commit: str
    after_s: float
    sent: int
    again_s: float | None
    cold: bool
    code: int
    asked: bool
    took_s: float
    ended_s: float
    faults: list[str]
    said: str


def read(path: Path | None) -> list[Try]:
    """Those kept so far."""
    if path is None or not path.exists():
        return []
    return [Try(**json.loads(line)) for line in path.read_text().splitlines()]


def keep(path: Path | None, made: Try) -> None:
    """Add one."""
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(made._asdict()) + "\n")


def table(tries: Iterable[Try]) -> list[str]:
    """One line a command: tries that were interrupted, ends by code, faults, the slowest end."""
    by_command: dict[str, list[Try]] = {}
    for made in tries:
        by_command.setdefault(made.command, []).append(made)
    return [_line(name, found) for name, found in by_command.items()]


def _line(name: str, found: list[Try]) -> str:
    codes = dict(sorted(Counter(made.code for made in found).items()))
    faults = dict(Counter(fault for made in found for fault in made.faults))
    twice, cold = sum(made.again_s is not None for made in found), sum(made.cold for made in found)
    slowest_s = max(made.ended_s for made in found)
    interrupted = sum(made.asked for made in found)
    whole_s = sum(made.took_s for made in found)
    return (
        f"{name[:60]}: {len(found)} tries, {interrupted} interrupted, {twice} twice, {cold} of a new Python; "
        f"codes {codes}, faults {faults}, slowest end {slowest_s:.2f} s, {whole_s / len(found):.2f} s a try"
    )
