"""Paths on the command line: options say what role theirs has, and one preflight checks all of them before any work.

A verb declares an option with `action=InputFile`, `OutputFile`, `PlotFile`, ...; main() calls preflight(args).
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..files import check_distinct, check_file, check_folder, user_path
from ..report.figures import FORMATS, check_format
from .option_types import NotedOption

STDOUT = Path("-")
MAYBE_FILES = ("model", "hardware", "true_hardware", "draft", "strategy", "strategies", "policy", "forecaster")


class PathArgument(NamedTuple):
    """One path as it was given: the option, the path, and the role."""

    option: str
    path: Path
    role: type[PathOption]


class PathOption(NotedOption):
    """Stores a Path (a list of them with nargs) and remembers it for preflight()."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        given = [values] if isinstance(values, str) else list(values or ())
        if not all(given):
            raise argparse.ArgumentError(self, "is empty; give a path")
        name = option or str(self.metavar or self.dest)
        told = [PathArgument(name, user_path(text), type(self)) for text in given]
        namespace.paths = [*getattr(namespace, "paths", ()), *told]
        super().__call__(parser, namespace, self.stored(values, told), option)

    def stored(self, values: Any, told: list[PathArgument]) -> Any:
        """What the verb finds in its arguments."""
        paths = [named.path for named in told]
        return paths[0] if isinstance(values, str) else paths

    @staticmethod
    def check(named: PathArgument) -> None:
        """Raise InputError where the path cannot have this role."""


class InputFile(PathOption):
    """A file that is read."""


class NameOrPath(PathOption):
    """A name of the gallery or of an installed thing, or a path that is read; stored as the text it is."""

    def stored(self, values: Any, told: list[PathArgument]) -> Any:
        """The text as given."""
        return values


class OutputFile(PathOption):
    """A file that is written: a regular one, or a new one in a folder that can be written."""

    @staticmethod
    def check(named: PathArgument) -> None:
        """A place for a regular file; "-" is none."""
        OutputFile.refuse_stdout(named)
        check_file(named.path)

    @staticmethod
    def refuse_stdout(named: PathArgument) -> None:
        """Raise InputError for "-"."""
        if named.path == STDOUT:
            raise InputError(f"{named.option} - is standard output, which this cannot be written to; give a name")


class OutputText(OutputFile):
    """As OutputFile, for what can go to standard output: "-", stored as None."""

    def stored(self, values: Any, told: list[PathArgument]) -> Any:
        """The path, or None for standard output."""
        return None if told[0].path == STDOUT else told[0].path

    @staticmethod
    def check(named: PathArgument) -> None:
        """A place for a regular file, or standard output."""
        if named.path != STDOUT:
            check_file(named.path)


class PlotFile(OutputFile):
    """A picture: an output file in a format that is drawn."""

    @staticmethod
    def check(named: PathArgument) -> None:
        """The format first: it is the likelier mistake."""
        check_format(named.path)
        check_file(named.path)


class PlotTarget(OutputFile):
    """A folder for several pictures, or the beginning of their names where it ends like one."""

    @staticmethod
    def check(named: PathArgument) -> None:
        """The folder in which the pictures come to lie."""
        OutputFile.refuse_stdout(named)
        check_folder(named.path.parent if named.path.suffix.lower() in FORMATS else named.path)


class NewFolder(OutputFile):
    """A folder that is written: new, or empty."""

    @staticmethod
    def check(named: PathArgument) -> None:
        """New or empty, in a place that can be written."""
        OutputFile.refuse_stdout(named)
        check_folder(named.path, empty=True)


def preflight(args: argparse.Namespace) -> None:
    """Raise InputError for paths that cannot have their roles: before anything is loaded, measured or written."""
    told: Sequence[PathArgument] = getattr(args, "paths", ())
    for named in told:
        named.role.check(named)
    outputs = [named.path for named in told if issubclass(named.role, OutputFile) and named.path != STDOUT]
    inputs = [named.path for named in told if not issubclass(named.role, OutputFile)]
    check_distinct(outputs, [*inputs, *_named_files(args)] if outputs else inputs)


def _named_files(args: argparse.Namespace) -> Iterator[Path]:
    """Files among what is told by a name or a path: "demo" or a folder, "hot-static+profile=FILE"."""
    for dest in MAYBE_FILES:
        value = getattr(args, dest, None)
        for text in value if isinstance(value, list) else [value]:
            for part in re.split(r"[,+]", text) if isinstance(text, str) else ():
                for path in {part, part.rpartition("=")[2]}:
                    with contextlib.suppress(OSError, ValueError, InputError):
                        if path and user_path(path).exists():
                            yield user_path(path)
