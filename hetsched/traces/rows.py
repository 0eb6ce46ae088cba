"""Rows of JSONL and CSV files as loggers write them, one for each token and layer, with columns found by name.

K: ids a row.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..reading import open_regular, parse_json
from ..types import Phase

COLUMNS = ("layer", "token", "experts", "sequence", "phase", "weights")
REQUIRED_COLUMNS = COLUMNS[:3]
_PHASES = {phase.name.lower(): int(phase) for phase in Phase} | {str(int(phase)): int(phase) for phase in Phase}
_LARGEST = {int: 2**31 - 1, float: 65504.0}  # int32, float16; infinity and NaN are refused with it
LINE_CHARACTERS = 16 << 20  # of one row
_WHAT = "a JSONL or CSV file with a row for each token and layer"
_SEPARATORS = re.compile(r"[;,|\s]+")


class Row(NamedTuple):
    """The choice of one layer for one token; `phase` 255 and `weights` () where the file says nothing."""

    line: int
    sequence: str
    token: int
    layer: int
    experts: tuple[int, ...]
    phase: int
    weights: tuple[float, ...]


@dataclass(frozen=True)
class RowFile:
    """A file of rows: its path, format, and the name in the file of each of COLUMNS (default: the same name).

    `experts` and `weights` may name a list, a text like "1;2;3", one number, or a pattern with a star: `expert_*` is
    the columns expert_0, expert_1, and so on.
    """

    path: Path
    format: str
    names: Mapping[str, str]

    def rows(self, at_bytes: Callable[[int], None] = lambda done: None) -> Iterator[Row]:
        """Every row in order; `at_bytes` is told now and then how much of the file was read.

        Raises InputError naming line and column.
        """
        reader: _Columns | None = None
        for line, record in self._records(at_bytes):
            reader = reader or _Columns(self, record)
            yield reader.row(line, record)

    def _records(self, at_bytes: Callable[[int], None]) -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            with io.TextIOWrapper(open_regular(self.path, _WHAT), encoding="utf-8-sig", newline="") as file:
                lines = _counted(self.path, file, at_bytes)
                yield from (_json_records if self.format == "jsonl" else _csv_records)(self.path, lines)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: not UTF-8 text: {error}") from error


def row_file(path: str | Path, file_format: str | None = None, columns: str = "") -> RowFile:
    """The file with its format (by suffix if None) and columns given as "layer=l,experts=expert_*".

    Raises InputError for an unknown format or column.
    """
    path = Path(path)
    formats = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
    chosen = file_format or formats.get(path.suffix.lower())
    if chosen not in ("jsonl", "csv"):
        raise InputError(f"{path}: the format is not told by the suffix; give --format jsonl or --format csv")
    pairs = [pair.partition("=")[::2] for pair in columns.split(",") if pair]
    for ours, theirs in pairs:
        if ours not in COLUMNS or not theirs:
            raise InputError(f"--columns {ours}={theirs}: write NAME=COLUMN with NAME one of {', '.join(COLUMNS)}")
    given = [ours for ours, _ in pairs]
    if twice := [name for name in given if given.count(name) > 1]:
        raise InputError(f"--columns names {twice[0]} twice; name one column for it")
    return RowFile(path, chosen, dict(pairs))


def _counted(path: Path, file: io.TextIOWrapper, at_bytes: Callable[[int], None]) -> Iterator[str]:
    done = 0
    for i, line in enumerate(iter(partial(file.readline, LINE_CHARACTERS + 1), "")):
        if len(line) > LINE_CHARACTERS:
            raise InputError(f"{path}, line {i + 1}: more than {LINE_CHARACTERS:,} characters; {_WHAT} is wanted")
        done += len(line)
        if i % 4096 == 0:
            at_bytes(done)
        yield line
    at_bytes(done)


def _json_records(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {number}: expected an object, found {line.strip():.40}")
        yield number, record


def _csv_records(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(lines)
    try:
        header = [name.strip() for name in next(reader, [])]
        for values in reader:
            if len(values) not in (0, len(header)):
                raise InputError(f"{path}, line {reader.line_num}: {len(values)} values, the header has {len(header)}")
            if values:
                yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from error


class _Columns:
    """Where in a record each column is, decided at the first one."""

    def __init__(self, file: RowFile, record: Mapping[str, Any]) -> None:
        self._path = file.path
        self._scalar: dict[str, str] = {}
        self._listed: dict[str, list[str]] = {}
        for name in COLUMNS:
            given = file.names.get(name)
            found = self._find(given or name, record)
            if not found and given is None and name in ("experts", "weights"):
                found = self._find(f"{name[:-1]}_*", record)
            if not found and (given or name in REQUIRED_COLUMNS):
                fix = f"name it with --columns {name}=..." if given is None else "correct --columns"
                raise InputError(f"{file.path}: no column {given or name!r} among {', '.join(record)}; {fix}")
            if name in ("experts", "weights"):
                self._listed[name] = found
            elif found:
                self._scalar[name] = found[0]

    @staticmethod
    def _find(name: str, record: Mapping[str, Any]) -> list[str]:
        if "*" not in name:
            return [name] if name in record else []
        pattern = re.compile(re.escape(name).replace(r"\*", r"(\d+)"))
        numbered = [(int(match[1]), key) for key in record if (match := pattern.fullmatch(key))]
        return [key for _, key in sorted(numbered)]

    def row(self, line: int, record: Mapping[str, Any]) -> Row:
        """The typed row of a record. Raises InputError naming line and column."""
        experts = self._list(line, record, "experts", int)
        weights = self._list(line, record, "weights", float)
        if weights and len(weights) != len(experts):
            raise self._error(line, self._listed["weights"][0], f"{len(weights)} weights for {len(experts)} experts")
        return Row(
            line,
            str(self._value(line, record, self._scalar["sequence"])) if "sequence" in self._scalar else "0",
            self._whole(line, record, "token"),
            self._whole(line, record, "layer"),
            experts,
            self._phase(line, record),
            weights,
        )

    def _value(self, line: int, record: Mapping[str, Any], column: str) -> Any:
        value = record.get(column)
        if value is None or value == "":
            raise self._error(line, column, "no value")
        return value

    def _whole(self, line: int, record: Mapping[str, Any], name: str) -> int:
        column = self._scalar[name]
        number = self._number(line, column, self._value(line, record, column), int)
        if number < 0:
            raise self._error(line, column, f"{number} is negative")
        return int(number)

    def _phase(self, line: int, record: Mapping[str, Any]) -> int:
        if "phase" not in self._scalar:
            return int(Phase.UNKNOWN)
        value = self._value(line, record, self._scalar["phase"])
        phase = _PHASES.get(str(value).strip().lower())
        if phase is None:
            names = ", ".join(f"{p.name.lower()} ({int(p)})" for p in Phase)
            raise self._error(line, self._scalar["phase"], f"{value!r} is none of {names}")
        return phase

    def _list(self, line: int, record: Mapping[str, Any], name: str, kind: type[int] | type[float]) -> tuple[Any, ...]:
        columns = self._listed[name]
        if len(columns) == 1:
            value = self._value(line, record, columns[0])
            if isinstance(value, str):
                value = _SEPARATORS.split(value.strip().strip("[]()").strip())
            items = value if isinstance(value, list) else [value]
            return tuple(self._number(line, columns[0], item, kind) for item in items)
        return tuple(self._number(line, c, self._value(line, record, c), kind) for c in columns)

    def _number(self, line: int, column: str, value: Any, kind: type[int] | type[float]) -> Any:
        try:
            number = kind(value)
            if isinstance(value, bool) or (kind is int and isinstance(value, float) and number != value):
                raise ValueError
            if not abs(number) <= _LARGEST[kind]:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            what = "a whole number" if kind is int else "a number"
            raise self._error(line, column, f"{value!r:.40} is not {what}") from None
        return number

    def _error(self, line: int, column: str, text: str) -> InputError:
        return InputError(f"{self._path}, line {line}, column {column!r}: {text}")
