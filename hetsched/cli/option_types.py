"""What options may hold: argparse types that refuse what makes no sense, and options that note that they were given."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from hetsched.errors import InputError
from hetsched.machine.durations import parse_seconds

MAX_SEED = 2**63 - 1


def whole(low: int, high: int = 2**63 - 1) -> Callable[[str], int]:
    """A type: a whole number from `low` to `high`."""
    allowed = f"of at least {low}" if high == 2**63 - 1 else f"from {low} to {high}"

    def parsed(text: str) -> int:
        digits = text.strip().removeprefix("-")
        number = int(text) if _is_digits(digits) and len(digits) < 20 else None  # 20 digits exceed every limit
        if number is None or not low <= number <= high:
            limit = f"from {low} to 2^63 - 1" if _is_digits(digits) and len(digits) > 18 else allowed
            raise argparse.ArgumentTypeError(f"{text!r:.60} is not a whole number {limit}")
        return number

    return parsed


def _is_digits(text: str) -> bool:
    """Whether these are digits as keyboards have them: int() and float() take those of any script, and "1_000"."""
    return text.isascii() and text.isdecimal()


at_least_one = whole(1)
seed = whole(0, MAX_SEED)


def finite_float(low: float, high: float, *, low_excluded: bool = False) -> Callable[[str], float]:
    """A type: a number from `low` to `high`; never infinity, never NaN."""

    def parsed(text: str) -> float:
        try:
            number = float(text if text.isascii() and "_" not in text else "")
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r:.60} is not a number") from None
        if not low <= number <= high or (low_excluded and number == low):
            ends = f"{low:g}..{high:g}{f', {low:g} excluded' if low_excluded else ''}"
            raise argparse.ArgumentTypeError(f"{text:.60} is outside {ends}")
        return number

    return parsed


_share = finite_float(0, 1)


def share(text: str) -> float:
    """A type: a share from 0 to 1, which may be written 25%, as of --gpu-memory."""
    return _share(text) if not text.endswith("%") else finite_float(0, 100)(text[:-1]) / 100


def seconds(low: float, high: float, *, low_excluded: bool = False) -> Callable[[str], float]:
    """A type: a duration from `low` to `high` seconds, as 0.002, 2ms or 1min."""
    allowed = finite_float(low, high, low_excluded=low_excluded)

    def parsed(text: str) -> float:
        try:
            return allowed(repr(parse_seconds(text)))
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def non_empty_text(text: str) -> str:
    """A type: a name or a text that is not blank."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give a name, or leave the option out")
    return text


def names_list(text: str) -> list[str]:
    """A type: names, 'a,b', each once."""
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise argparse.ArgumentTypeError(f"{text!r:.60} names nothing in one place; write names with commas between")
    if twice := [name for name in names if names.count(name) > 1]:
        raise argparse.ArgumentTypeError(f"{twice[0]!r} is named twice")
    return names


def shares_list(text: str) -> list[float]:
    """A type: shares from 0 to 1, '0.1,0.25', each once."""
    shares = [share(part) for part in names_list(text)]
    if twice := [number for number in shares if shares.count(number) > 1]:
        raise argparse.ArgumentTypeError(f"{twice[0]:g} is named twice")
    return shares


class NotedOption(argparse.Action):
    """Stores a value, and in `args.given` that it was given and how, so that a mode can refuse what it would ignore."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Called by argparse for each option that stands on the command line."""
        setattr(namespace, self.dest, values)
        namespace.given = {**getattr(namespace, "given", {}), self.dest: option or self.dest}


def is_given(args: argparse.Namespace, name: str) -> bool:
    """Whether a Noted option stands on the command line."""
    return name in getattr(args, "given", {})


def refuse_given(args: argparse.Namespace, names: tuple[str, ...], reason: str) -> None:
    """Raise InputError for the first of these Noted options that was given. `reason`: "belongs to --trace"."""
    for name in names:
        if is_given(args, name):
            raise InputError(f"{args.given[name]} {reason}; drop it")
