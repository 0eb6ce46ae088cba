"""Hostile command lines: options of every verb, found in the parser itself, with values that make no sense."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from random import Random
from typing import Any

NUMBERS = "-1 0 1e308 -1e308 inf -inf nan NaN 1e-320 999999999999999999999999 0x10 1_000 10% 101% -5% ² ١٢ 1e400GiB"
PATHS = "~nobody/x /proc/self/mem /sys /dev/null /dev/full ../.. / - @file $HOME *"
CLASSES = "sys:exit typing:Any json:JSONDecodeError os:fork .rel:Name module: :Class hetsched.cli:main builtins:input"
LISTS = "a,b,,c , a,a {} = -- --json"
TEXTS = "", " ", "x" * 300, "x" * 5000, "8 parsecs", "é\u202e\u0007", "a\nb"
HOSTILE = (*f"{NUMBERS} {PATHS} {CLASSES} {LISTS}".split(), *TEXTS)
UNKNOWN = ("--polcy", "--modle", "--jsno", "--no-such-option", "-Z", "--=", "---")


def parsers(
    parser: argparse.ArgumentParser, way: tuple[str, ...] = ()
) -> dict[tuple[str, ...], argparse.ArgumentParser]:
    """Every parser of the command line that has no verbs of its own, by its words."""
    subs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not subs:
        return {way: parser}
    found: dict[tuple[str, ...], argparse.ArgumentParser] = {}
    for action in subs:
        for name, sub in action.choices.items():
            found |= parsers(sub, (*way, name))
    return found


def hostile(words: Sequence[str], parser: argparse.ArgumentParser, random: Random) -> list[str]:
    """A good command line with one to three options more, or changed, or a word that nobody knows."""
    line = list(words)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        actions = [
            action for action in parser._actions if action.option_strings and action.dest not in ("help", "debug")
        ]
        kind = random.random()
        if kind < 0.1:
            line.append(random.choice(UNKNOWN))
        elif kind < 0.15:
            line.insert(random.randrange(len(line) + 1), random.choice(HOSTILE))
        elif kind < 0.2 and len(line) > 1:
            del line[random.randrange(len(line))]
        elif actions:
            line += _option(random.choice(actions), random)
    return line


def _option(action: Any, random: Random) -> list[str]:
    name = random.choice(action.option_strings)
    if action.nargs == 0:
        return [name] if random.random() < 0.7 else [f"{name}={random.choice(HOSTILE)}"]
    value = random.choice(HOSTILE)
    if action.choices and random.random() < 0.3:
        value = str(random.choice(list(action.choices)))
    joined = name.startswith("--") and random.random() < 0.5
    return [f"{name}={value}"] if joined else [name, value]
