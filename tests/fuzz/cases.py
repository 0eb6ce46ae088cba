"""Cases by number: each draws a command, and damages a file that it reads or its options. The same number, the same."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

from hetsched import cli

from . import bodies, damage
from .children import LATE, Ask
from .ground import COMMANDS, Command
from .options import hostile, parsers
from .running import CACHE, OUT, Verdict, run

KINDS = ("any", "files", "options", "bodies")
OF_BODIES, OF_FILES = 0.01, 0.51  # of all cases; a case of bodies takes as long as several others


class Case(NamedTuple):
    """What was tried. `words`: after `hetsched`; `done`: to which file what, or nothing."""

    number: int
    words: list[str]
    done: str
    verdict: Verdict


def tried(number: int, ground: Path, folder: Path, kind: str = "any", ask: Ask = LATE) -> Case:
    """Run a case in `folder`, which is made anew from the good files; `ask` it to end then. `kind`: one of KINDS."""
    random = Random(number)
    drawn = random.random()
    if kind == "any":
        kind = "bodies" if drawn < OF_BODIES else "files" if drawn < OF_FILES else "options"
    shutil.rmtree(folder, ignore_errors=True)
    words, done, work = [bodies.NAME], "", None
    if kind == "bodies":
        laid(ground, folder, bodies.SERVED.words)
        work = partial(bodies.answered, folder, random)
    elif kind == "files":
        command = random.choice([command for command in COMMANDS if command.reads])
        laid(ground, folder, command.words, command.reads)
        name = random.choice(command.reads)
        done = f"{name}: {damage.damage(folder / name, random)}"
        words = filled(command.words, folder)
    else:
        words = _line(random, ground, folder)
    return Case(number, words, done, run(words, folder, ask, keep=True, alone=False, work=work))


def filled(words: Sequence[str], folder: Path) -> list[str]:
    """The words with paths for their places."""
    return [_filled(word, folder) for word in words]


def _filled(word: str, folder: Path) -> str:
    return str(folder / word[1:-1]) if word.startswith("{") else word


def laid(ground: Path, folder: Path, words: Sequence[str], reads: Sequence[str] = ()) -> None:
    """Copy the good files that words stand for into a new folder, with a cache and a place for what is written.

    `reads`: as of a Command; those in that place are copied, too.
    """
    named = {word[1:-1] for word in words if word.startswith("{") and not word.startswith(f"{{{OUT}/")}
    there = {name.rpartition("/")[0] for name in reads if name.startswith(f"{OUT}/")}
    (folder / OUT).mkdir(parents=True)
    for name in sorted({*named, *there, CACHE}):
        if name.startswith(f"{CACHE}/"):
            continue
        (shutil.copytree if (ground / name).is_dir() else shutil.copyfile)(ground / name, folder / name)


def _line(random: Random, ground: Path, folder: Path) -> list[str]:
    """A command line of any verb; those that the ground has no command for have their name alone."""
    every = parsers(cli._parser())
    way = random.choice(sorted(every))
    known = [command for command in COMMANDS if command.words[: len(way)] == way]
    command = random.choice(known or [Command(" ".join(way))])
    laid(ground, folder, command.words, command.reads)
    return hostile(filled(command.words, folder), every[way], random)
