"""read_run: a run log as objects, checked line by line; a log that was cut short is read up to there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import InputError
from ..reading import HEAD_BYTES, kind_of, open_regular
from .copies import Copy, copies_of, copy_s_of
from .figures import count_of, counts_of
from .lines import CLOCKS, SCHEMA, End, Event, Frame, Header, Layer, end_of, event_of, layer_of

LINE_BYTES = 32 << 20  # of one line; the header's popularity is the longest
WHAT = "a run log (JSON lines, as `hetsched run --log FILE` writes them)"


Line: TypeAlias = Layer | Event | Frame | End


@dataclass(frozen=True)
class RunLog:
    """A run as it was logged. `end` is None where the log was cut short. `layers` in order of steps and layers."""

    path: str
    header: Header
    layers: list[Layer]
    events: list[Event]
    frames: list[Frame]
    end: End | None

    @property
    def steps(self) -> int:
        """Steps of which there are layers here."""
        return len(self.index)

    @cached_property
    def index(self) -> dict[int, list[int]]:
        """Places in `layers` of each step."""
        found: dict[int, list[int]] = {}
        for place, row in enumerate(self.layers):
            found.setdefault(row.step, []).append(place)
        return found

    @property
    def seconds(self) -> float:
        """The run's own seconds, as far as they were logged."""
        return self.end.seconds if self.end else (self.layers[-1].end_s if self.layers else 0.0)

    def copies(self) -> list[Copy]:
        """Every copy with when it began and ended, as far as the link's reports tell (copies.py), in order of ends."""
        return copies_of(self.layers, copy_s_of(self.header))

    def place(self, step: int, layer: int) -> int:
        """Where in `layers` a layer of a step is. Raises InputError naming the range."""
        if not self.index:
            raise InputError(f"{self.path} holds no layer; the run was cut short before its first")
        first, last = min(self.index), max(self.index)
        if step not in self.index:
            raise InputError(f"step {step} is not in {self.path}, which holds steps {first} to {last}")
        for place in self.index[step]:
            if self.layers[place].layer == layer:
                return place
        self.check_layer(layer)
        there = [self.layers[place].layer for place in self.index[step]]
        raise InputError(f"layer {layer} of step {step} is not in {self.path}, which holds layers {_span(there)} of it")

    def check_layer(self, layer: int) -> None:
        """Raise InputError naming the range for a layer that the model has not."""
        if not 0 <= layer < self.header.num_layers:
            raise InputError(f"layer {layer} is not in 0..{self.header.num_layers - 1}, the model's MoE layers")

    def check_expert(self, expert: int) -> None:
        """Raise InputError naming the range for an expert that no layer has."""
        if not 0 <= expert < self.header.num_experts:
            raise InputError(f"expert {expert} is not in 0..{self.header.num_experts - 1}, the experts of a layer")


def read_run(path: str | Path) -> RunLog:
    """The log of a run. Raises InputError, in one line with the line's number, for what is no run log."""
    lines = stream(path)
    header = next(lines)
    assert isinstance(header, Header)
    layers, events, frames, end = list[Layer](), list[Event](), list[Frame](), None
    for line in lines:
        if isinstance(line, Layer):
            layers.append(line)
        elif isinstance(line, Event):
            events.append(line)
        elif isinstance(line, Frame):
            frames.append(line)
        elif isinstance(line, End):
            end = line
    return RunLog(str(path), header, layers, events, frames, end)


def stream(path: str | Path) -> Iterator[Header | Line]:
    """The header, then every line in order, for logs that need not be in memory. Raises InputError as read_run does."""
    lines = read_lines(path)
    number, first = next(lines, (1, None))
    header, end = _header(path, number, first), None
    yield header
    for number, line in lines:
        if end is not None:
            raise _wrong(path, number, "follows the end of the run")
        try:
            found = _line(line, header)
        except KeyError as error:
            raise _wrong(path, number, f"{error} is missing") from error
        except (TypeError, ValueError, OverflowError) as error:  # the last: infinity where a count should be
            raise _wrong(path, number, str(error)) from error
        end = found if isinstance(found, End) else None
        yield found


def _line(line: Any, header: Header) -> Line:
    kind = line["kind"]
    if kind == "layer":
        return _checked(layer_of(line), header)
    if kind == "event":
        return event_of(line)
    if kind == "resident":
        held = tuple([counts_of(ids) for ids in line["experts"]])
        _check_held(held, header)
        return Frame(count_of(line["step"]), held)
    if kind == "end":
        return end_of(line)
    raise ValueError(f"kind {kind!r} is not known")


def read_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Each line's number and object. Half a line at the end of the file is left out."""
    with open_regular(path, WHAT) as file:
        for number, raw in enumerate(iter(lambda: file.readline(LINE_BYTES), b""), start=1):
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError) as error:
                if not raw.endswith(b"\n") and number > 1 and len(raw) < LINE_BYTES:
                    return
                kind = kind_of(raw[:HEAD_BYTES]) if number == 1 else ""
                if kind not in ("", "JSON"):
                    raise InputError(f"{path} is {kind}, no JSON lines; give {WHAT}") from error
                raise _wrong(path, number, f"is no JSON: {getattr(error, 'msg', error)}") from error
            if not isinstance(line, dict):
                raise _wrong(path, number, f"is {type(line).__name__}, not an object")
            yield number, line


def _header(path: str | Path, number: int, line: Any) -> Header:
    if line is None:
        raise InputError(f"{path} is empty; give {WHAT}")
    if line.get("schema") != SCHEMA or line.get("kind") != "header":
        raise _wrong(path, number, f"is no header of schema {SCHEMA!r} but of {line.get('schema')!r}")
    try:
        told = {field.name: line[field.name] for field in fields(Header)}
        told["resident"] = tuple([counts_of(ids) for ids in told["resident"]])
        if told["popularity"] is not None:
            told["popularity"] = tuple([tuple(map(float, row)) for row in told["popularity"]])
        header = Header(**told)
        if header.clock not in CLOCKS:
            raise ValueError(f"clock {header.clock!r} is none of {', '.join(CLOCKS)}")
        _check_held(header.resident, header)
        _ = header.machine["profile"]
    except KeyError as error:
        raise _wrong(path, number, f"{error} is missing") from error
    except (TypeError, ValueError, OverflowError) as error:  # the last: infinity where a count should be
        raise _wrong(path, number, str(error)) from error
    return header


def _check_held(held: tuple[tuple[int, ...], ...], header: Header) -> None:
    if len(held) != header.geometry.num_layers:
        raise ValueError(f"{len(held)} layers of residents for a model of {header.num_layers}")
    beyond = [expert for ids in held for expert in ids if not 0 <= expert < header.num_experts]
    if beyond:
        raise ValueError(f"expert {beyond[0]} of {header.num_experts}")


def _checked(row: Layer, header: Header) -> Layer:
    if not 0 <= row.layer < header.num_layers or row.step < 0:
        raise ValueError(f"step {row.step}, layer {row.layer} of a model of {header.num_layers} layers")
    if row.experts and not 0 <= min(row.experts) <= max(row.experts) < header.num_experts:
        raise ValueError(f"experts {min(row.experts)} to {max(row.experts)} of {header.num_experts}")
    return row


def _wrong(path: str | Path, number: int, text: str) -> InputError:
    return InputError(f"{path}: line {number}: {text}; give {WHAT}")


def _span(numbers: list[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if numbers else "none"
