"""Hostile command lines: options of every verb, found in the parser itself, with values that make no sense.

Also good values that make no sense together: options given twice, those that exclude each other, one path in two roles.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any

from hetsched.errors import InputError
from hetsched.plugins import KINDS, installed, plugin

NUMBERS = "-1 0 1e308 -1e308 inf -inf nan NaN 1e-320 999999999999999999999999 0x10 1_000 10% 101% -5% ² ١٢ 1e400GiB"
PATHS = "~nobody/x /proc/self/mem /sys /dev/null /dev/full ../.. / - @file $HOME *"
CLASSES = (
    "sys:exit typing:Any json:JSONDecodeError os:fork .rel:Name module: :Class hetsched.cli:main builtins:input "
    "unittest.mock:call hetsched.policy:Policy hetsched.policies.static:StaticFrequency this:nothing"
)
LISTS = "a,b,,c , a,a {} = -- --json"
TEXTS = "", " ", "x" * 300, "x" * 5000, "8 parsecs", "é\u202e\u0007", "a\nb", "\x1b[31m", "\udcff"
HOSTILE = (*f"{NUMBERS} {PATHS} {CLASSES} {LISTS}".split(), *TEXTS)
UNKNOWN = ("--polcy", "--modle", "--jsno", "--no-such-option", "-Z", "--=", "---")
NAMES = "q4km q4_k_m Q4_K_M iq2_xs int4_group bf61 gptq awq mxfp4,mxfp4 hetsched.formats.mxfp4:Mxfp4"
GROUPS = "mxfp4+group=1 q8_0+x=1 fp8-block+block=0 bf16+ +group=1 hetsched.formats.base:Stored"
FORMATS = (*f"{NAMES} {GROUPS}".split(), *(f"int4-group+group={n}" for n in (0, 1, 3, -1, 999999999, "32+group=64")))
TUNINGS = ("inf", "nan", "-1", "0", "1e308", "9" * 400, "x", "", "true", "1")


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
        kind = random.random()
        if kind < 0.1:
            line.append(random.choice(UNKNOWN))
        elif kind < 0.15:
            line.insert(random.randrange(len(line) + 1), random.choice(HOSTILE))
        elif kind < 0.2 and len(line) > 1:
            del line[random.randrange(len(line))]
        elif kind < 0.3:
            line = random.choice((_twice, _one_path))(line, random)
        elif kind < 0.35:
            line += _together(parser, random)
        elif actions := _options(parser):
            line += _option(random.choice(actions), random)
    return line


def _options(parser: argparse.ArgumentParser) -> list[Any]:
    return [action for action in parser._actions if action.option_strings and action.dest not in ("help", "debug")]


def _option(action: Any, random: Random) -> list[str]:
    name = random.choice(action.option_strings)
    if action.nargs == 0:
        return [name] if random.random() < 0.7 else [f"{name}={random.choice(HOSTILE)}"]
    value = random.choice(HOSTILE)
    if action.choices and random.random() < 0.3:
        value = str(random.choice(list(action.choices)))
    elif action.dest in ("format", "dtype") and random.random() < 0.7:
        value = random.choice(FORMATS)
    elif random.random() < 0.15:
        value = random.choice(tuned())
    joined = name.startswith("--") and random.random() < 0.5
    return [f"{name}={value}"] if joined else [name, value]


def _twice(line: list[str], random: Random) -> list[str]:
    """An option that is there already, once more."""
    places = [i for i, word in enumerate(line) if word.startswith("--")]
    if not places:
        return line
    at = random.choice(places)
    has_value = at + 1 < len(line) and not line[at + 1].startswith("--")
    return [*line, line[at], *([random.choice((line[at + 1], random.choice(HOSTILE)))] if has_value else [])]


def _one_path(line: list[str], random: Random) -> list[str]:
    """Two of the paths are the same: an output is an input, or two outputs are one."""
    places = [i for i, word in enumerate(line) if word.startswith("/")]
    if len(places) < 2:
        return line
    first, second = random.sample(places, 2)
    return [line[first] if i == second else word for i, word in enumerate(line)]


def _together(parser: argparse.ArgumentParser, random: Random) -> list[str]:
    """Two options that exclude each other, or any two with values of their own kind."""
    groups = [group._group_actions for group in parser._mutually_exclusive_groups if len(group._group_actions) > 1]
    chosen = random.sample(random.choice(groups or [_options(parser) * 2]), 2)
    return [
        word
        for action in chosen
        for word in ([action.option_strings[-1]] if action.nargs == 0 else [*action.option_strings[-1:], "1"])
    ]


@cache
def tuned() -> tuple[str, ...]:
    """Installed plug-ins with arguments of their constructors that make no sense."""
    found = []
    for group in KINDS:
        for name in installed(group):
            try:
                known = inspect.signature(plugin(group, name)).parameters
            except (InputError, ValueError):  # a package that is not installed
                continue
            found += [f"{name}+{key}={value}" for key in (*known, "no_such") for value in TUNINGS]
    return tuple(found)
