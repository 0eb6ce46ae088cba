"""Cases by number: each draws a command, and damages a file that it reads or its options. The same number, the same."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from hetsched.cli import _parser

from . import damage
from .ground import COMMANDS
from .options import hostile, parsers
from .running import Verdict, run


class Case(NamedTuple):
    """What was tried. `words`: after `hetsched`; `done`: to which file what, or nothing."""

    number: int
    words: list[str]
    done: str
    verdict: Verdict


def tried(number: int, ground: Path, folder: Path, kind: str = "any") -> Case:
    """Run a case in `folder`, which is made anew from the good files. `kind`: any, files or options."""
    random = Random(number)
    of_files = kind == "files" or (kind == "any" and random.random() < 0.5)
    shutil.rmtree(folder, ignore_errors=True)
    if of_files:
        command = random.choice([command for command in COMMANDS if command.reads])
        laid(ground, folder, command.words)
        name = random.choice(command.reads)
        done = f"{name}: {damage.damage(folder / name, random)}"
        words = filled(command.words, folder)
    else:
        words, done = _line(random, ground, folder), ""
    return Case(number, words, done, run(words, folder))


def filled(words: Sequence[str], folder: Path) -> list[str]:
    """The words with paths for their places."""
    return [_filled(word, folder) for word in words]


def _filled(word: str, folder: Path) -> str:
    return str(folder / word[1:-1]) if word.startswith("{") else word


def laid(ground: Path, folder: Path, words: Sequence[str]) -> None:
    """Copy the good files that the words stand for into a new folder."""
    folder.mkdir()
    for name in {word[1:-1] for word in words if word.startswith("{") and not word.startswith("{out/")}:
        (folder / name).parent.mkdir(exist_ok=True)
        (shutil.copytree if (ground / name).is_dir() else shutil.copyfile)(ground / name, folder / name)


def _line(random: Random, ground: Path, folder: Path) -> list[str]:
    """A command line of any verb; those that the ground has no command for have their name alone."""
    every = parsers(_parser())
    way = random.choice(sorted(every))
    known = [command.words for command in COMMANDS if command.words[: len(way)] == way]
    words = random.choice(known or [way])
    laid(ground, folder, words)
    return hostile(filled(words, folder), every[way], random)
