"""Ctrl-C and SIGTERM at random moments of every command that takes long: the right code, one line, nothing left.

Every other pair of requests comes twice. What an interrupted command leaves to be gone on with is gone on with, to the
same end. Moments are of the command's own span, which is that of the last times that it was left alone.
"""

from __future__ import annotations

import hashlib
import io
import shlex
import shutil
import signal
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random

from hetsched import cli

from . import tries
from .asking import OUT, Ask, End, asked
from .cases import filled, laid
from .ground import Command
from .long_commands import ITSELF, LONG, left_by, prepare
from .tries import Try

BEGINNING_S, MOST_S = 2.0, 8.0  # of a longer command its beginning is interrupted, and every tenth time more
UNTRIED_S = 1.0  # the beginning of those that are not tried first
AGAIN_S = 0.3  # within which a second request follows a first
UNTRIED = ("serve", "model build", "demo", "profile")  # nobody waits for their ends; the last makes forks impossible
UNFINISHED = (".tmp", ".part")  # in names of what is not yet whole
READABLE = (0, 2)  # a log of no layer makes no report
TENTH, TWENTIETH, MOST_LATE = 10, 20, 3


class Soaked:
    """One command: what it takes and makes when it is left alone, and its tries."""

    def __init__(self, command: Command, place: Path, commit: str) -> None:
        self.command, self._place, self._commit = command, place, commit
        self.takes_s, self._whole = MOST_S, dict[str, str]()
        self._beginning_s = UNTRIED_S if command.line.startswith(UNTRIED) else BEGINNING_S
        if not command.line.startswith(UNTRIED):
            self._warm()
            whole = self._run(None)
            assert whole.code in (0, 1), f"{command.line}: {whole}"
            self.takes_s, self._whole = whole.took_s, _made(place / "case" / OUT)

    def tried(self, number: int) -> Try:
        """Interrupt it once; the same number, the same request, at the same share of what it takes."""
        random = Random(f"{self.command.line} {number}")
        cold = number % TWENTIETH == TWENTIETH - 1
        most_s = min(self.takes_s, MOST_S if number % TENTH == 0 else self._beginning_s)
        after_s = random.uniform(0, BEGINNING_S if cold else most_s)
        again_s = random.uniform(0, AGAIN_S) if number % 4 >= 2 else None
        sent = signal.SIGTERM if (number + number // TENTH) % 2 else signal.SIGINT
        ask = Ask(after_s, sent, again_s, cold)
        end = self._run(ask)
        if not end.asked and not cold:
            self.takes_s = 0.7 * self.takes_s + 0.3 * end.took_s
        faults = end.faults(ask.number) + self._leftovers(end.code)
        if end.code and not faults:
            faults = self._followed()
        in_time = end.asked and end.code != 0
        named = (self.command.line, number, self._commit, ask.after_s, int(ask.number), again_s, cold)
        return Try(*named, end.code, in_time, end.took_s, end.ended_s, faults, end.said[-2000:] if faults else "")

    def _run(self, ask: Ask | None) -> End:
        folder = self._place / "case"
        shutil.rmtree(folder, ignore_errors=True)
        laid(self._place / "ground", folder, self.command.words)
        return asked(filled(self.command.words, folder), folder, ask)

    def _warm(self) -> None:
        """Once in this process: forks find all imported that the command imports, and its kernels loaded."""
        folder = self._place / "case"
        shutil.rmtree(folder, ignore_errors=True)
        laid(self._place / "ground", folder, self.command.words)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            cli.main(filled(self.command.words, folder))

    def _leftovers(self, code: int) -> list[str]:
        """Of one that was interrupted. A file that is whole may be there: it was the last thing, or all but that."""
        if not code:
            return []
        out, left = self._place / "case" / OUT, list[str]()
        if left_by(self.command) is None:
            made = _made(out)
            left = [path.name for path in out.iterdir() if self._whole.get(path.name, "") != made.get(path.name)]
        cached = (self._place / "cache").rglob("*")
        left += [path.name for path in cached if any(part in path.name for part in UNFINISHED)]
        return [f"leftovers: {', '.join(left)}"] if left else []

    def _followed(self) -> list[str]:
        """What goes wrong with what was left by an interrupted command."""
        then, folder = left_by(self.command), self._place / "case"
        if then is None:
            return []
        if then != ITSELF:
            if not (folder / OUT / "run.jsonl").exists():
                return []
            end = asked(filled(shlex.split(then), folder), folder, None, keep=True)
            return [] if end.code in READABLE and "Traceback" not in end.said else ["left unreadable"]
        end = asked(filled(self.command.words, folder), folder, None, keep=True)
        return [] if not end.code and _made(folder / OUT) == self._whole else [f"not gone on with: {end}"]


def soak(place: Path, times: int, only: str = "", kept: Path | None = None) -> int:
    """Interrupt each command so often, and print what came of it; exit code 1 where a promise was broken.

    `kept`: a file of tries, to which they are added; those that it has are not made again.
    """
    prepare(place / "ground")
    commit, made = _commit(), tries.read(kept)
    for command in (command for command in LONG if command.line.startswith(only)):
        own = [old for old in made if old.command == command.line]
        if _interrupted(own) < times:
            made += _more(own, Soaked(command, place, commit), times, kept)
    print("\n".join(["", *tries.table(made)]))
    return int(any(old.faults for old in made))


def _more(own: list[Try], soaked: Soaked, times: int, kept: Path | None) -> list[Try]:
    """Until so many were interrupted: some come too late, when the command is at its end."""
    numbers, new = {old.number for old in own}, list[Try]()
    for number in (number for number in range(MOST_LATE * times) if number not in numbers):
        new.append(soaked.tried(number))
        tries.keep(kept, new[-1])
        if new[-1].faults:
            print(new[-1], flush=True)
        if _interrupted(own + new) >= times:
            break
    print(tries.table(own + new)[0], flush=True)
    return new


def _interrupted(made: list[Try]) -> int:
    return sum(each.asked for each in made)


def _made(out: Path) -> dict[str, str]:
    """Every file in a folder, with a digest of its bytes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir() if path.is_file()}


def _commit() -> str:
    """Of the code that is soaked; a star for changes since."""
    words = ["git", "describe", "--always", "--dirty=*"]
    done = subprocess.run(words, cwd=Path(cli.__file__).parent, capture_output=True, text=True)
    return done.stdout.strip()
