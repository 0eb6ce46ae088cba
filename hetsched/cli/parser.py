"""The parser of the command line: mistakes in one line, and --debug after every verb."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ..errors import InputError


class Parser(argparse.ArgumentParser):
    """As argparse's, whose sub-parsers are of the same class."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Suppressed: a verb's own default would overwrite what was given before it.
        self.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )

        self.reordered: Callable[[list[str]], list[str]] = list

    def parse_known_args(  # type: ignore[override]  # argparse's own is overloaded
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, of the words as a verb wants them put: `reordered`."""
        known: tuple[argparse.Namespace, list[str]] = super().parse_known_args(
            None if args is None else self.reordered(list(args)), namespace
        )
        return known

    def error(self, message: str) -> NoReturn:
        """Raise InputError: what was meant, and where to read on."""
        raise InputError(f"{' '.join(message.split())}; see '{self.prog} --help'")


def last_value_first(words: list[str], option: str, valued: Sequence[str]) -> list[str]:
    """Words in which a positional one comes first, where it can only be the last of `option`'s values.

    An option that takes any number of values takes the positional that follows it too: `--out A FILE`. `valued`: the
    other options that have a value of their own, by which words of no option are told.
    """
    owner, values, others = "", list[int](), list[int]()
    for i, word in enumerate(words):
        if word.startswith("-") and word != "-":
            name, _, joined = word.partition("=")
            owner = "" if joined else name
        elif owner and option.startswith(owner) and len(owner) > 2:
            values.append(i)
        elif any(known.startswith(owner) for known in valued) and len(owner) > 2:
            owner = ""
        else:
            others.append(i)
            owner = ""
    if others or len(values) < 2:
        return words
    return [words[values[-1]], *words[: values[-1]], *words[values[-1] + 1 :]]
