"""The parser of the command line: mistakes in one line that names the nearest match, and examples in every --help."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, NoReturn

from .. import __version__
from ..errors import InputError

_UNKNOWN = "unrecognized arguments: "
_NUMBER = re.compile(r"-\d|-\.\d")


class Parser(argparse.ArgumentParser):
    """As argparse's, whose sub-parsers are of the same class; each has --version and --debug, and may show examples."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_argument("-V", "--version", action="version", version=f"hetsched {__version__}")
        # Suppressed: a verb's own default would overwrite what was given before it.
        self.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
        self.reordered: Callable[[list[str]], list[str]] = list
        self.former: dict[str, str] = {}
        self.examples: list[str] = []
        self._words: list[str] = []

    def parse_known_args(  # type: ignore[override]  # argparse's own is overloaded
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, of the words as a verb wants them put: `reordered`; what is left over is an error here."""
        words = [self._as_called_now(word) for word in (sys.argv[1:] if args is None else args)]
        self._words = self.reordered(words)
        self._refuse_dashes()
        known: tuple[argparse.Namespace, list[str]] = super().parse_known_args(self._words, namespace)
        if known[1]:
            self.error(_UNKNOWN + " ".join(known[1]))
        return known

    def format_help(self) -> str:
        """As argparse's, and beneath it the examples."""
        shown = "".join(f"\n  {example}" for example in self.examples)
        return super().format_help() + (f"\nexamples:{shown}\n" if shown else "")

    def show_examples(self, examples: Sequence[str]) -> None:
        """Let --help show whole command lines: here, and each also in the parser of the verb within that it uses."""
        self.examples += examples
        for name, parser in self.verbs().items():
            parser.show_examples([line for line in examples if f"{line} ".startswith(f"{self.prog} {name} ")])

    def error(self, message: str) -> NoReturn:
        """Raise InputError: what was meant, and where to read on; an unknown option goes before a missing one."""
        own = takewhile(lambda word: word.startswith("-"), self._words) if self.verbs() else self._words
        unknown = next(filter(self._is_unknown, own), None)
        if unknown is not None and not message.startswith("argument "):
            message = f"{_UNKNOWN}{unknown}{_meant(unknown.partition('=')[0], self._options())}"
        raise InputError(f"{' '.join(message.split())}; see '{self.prog} --help'")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse's, with the choice that was probably meant."""
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            known = ", ".join(names)
            text = f"invalid choice: {value!r:.60}{_meant(str(value), names)} (choose from {known})"
            raise argparse.ArgumentError(action, text)

    def _as_called_now(self, word: str) -> str:
        """An option by the name that it has today."""
        name, joined, value = word.partition("=")
        return f"{self.former.get(name, name)}{joined}{value}"

    def _refuse_dashes(self) -> None:
        """Raise InputError for "--" as a value, which argparse takes for the end of the options and stumbles over."""
        for word in self._words:
            if re.fullmatch(r"--[\w-]+=--|-\w=?--", word) and not self.verbs():
                self.error(f"argument {word[:-2].rstrip('=')}: '--' is no value")

    def verbs(self) -> dict[str, Parser]:
        """The parsers of the verbs that this one has."""
        found = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return dict(found[0].choices) if found else {}

    def _options(self) -> list[str]:
        return [name for action in self._actions if action.help != argparse.SUPPRESS for name in action.option_strings]

    def _is_unknown(self, word: str) -> bool:
        """Whether this looks like an option that there is not."""
        if not word.startswith("-") or word in ("-", "--") or " " in word or _NUMBER.match(word):
            return False
        name = word.partition("=")[0]
        known = [option for action in self._actions for option in action.option_strings]
        return not any(option.startswith(name) for option in known) and (name.startswith("--") or name[:2] not in known)


def formerly(parser: argparse.ArgumentParser, old: str, new: str) -> None:
    """Let an option's old name be understood, and stand nowhere."""
    assert isinstance(parser, Parser)
    parser.former[old] = new


def _meant(word: str, known: Sequence[str]) -> str:
    """The nearest of the known names, as a question; nothing where none is near."""
    near = difflib.get_close_matches(word[:60].lower(), known, n=1, cutoff=0.6)
    return f": did you mean {near[0]!r}?" if near else ""


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
        elif owner and (owner == option[1:3] or (option.startswith(owner) and len(owner) > 2)):  # -o is --out
            values.append(i)
        elif any(known.startswith(owner) for known in valued) and len(owner) > 2:
            owner = ""
        else:
            others.append(i)
            owner = ""
    if others or len(values) < 2:
        return words
    return [words[values[-1]], *words[: values[-1]], *words[values[-1] + 1 :]]
