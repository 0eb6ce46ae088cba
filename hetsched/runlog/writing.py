"""RunWriter: the lines of a run log, whole ones, in a file of bounded size."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .. import __version__
from ..board import ABSENT, NO_EXPERT
from ..errors import InputError
from ..files import check_file, user_path
from ..machine.profile import HardwareProfile
from ..machine.profile_yaml import profile_document
from ..scheduler import Scheduler
from ..types import FloatArray
from .lines import End, Event, Frame, Header, Layer, header_line, layer_line, model_facts, seconds

if sys.platform != "win32":
    import fcntl

MAX_BYTES = 64 << 20
BESIDE = 8  # other lines may take one such part of the layers' bytes


class RunWriter:
    """Writes lines as they come, each at once and whole, so that a log that is cut short can be read.

    Layers are kept until the file has `max_bytes`: the first ones; `dropped` counts those that found no room, and
    `dropped_lines` other lines. Raises InputError for a place that cannot be written to, or that another run writes.
    """

    def __init__(self, path: str | Path, header: Header, max_bytes: int = MAX_BYTES) -> None:
        self.path = user_path(path)
        self.max_bytes = max_bytes
        self.num_bytes = self.dropped = self.dropped_lines = 0
        self._process = os.getpid()  # a fork's child has the same file open, and is not who is logged
        check_file(self.path)
        try:
            self._file = self.path.open("ab", buffering=0)
            self._take()
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}; choose another place") from error
        self._put([_text(header_line(header))])

    def layers(self, rows: Sequence[Layer]) -> None:
        """As many of these as there is room for."""
        lines = [_text(layer_line(row)) for row in rows] if not self.dropped else []
        kept, room = 0, self.max_bytes - self.num_bytes
        for line in lines:
            room -= len(line)
            if room < 0:
                break
            kept += 1
        self._put(lines[:kept])
        self.dropped += len(rows) - kept

    def aside(self, aside: Event | Frame) -> None:
        """Something out of the ordinary, or who holds slots."""
        if isinstance(aside, Event):
            line = {"kind": "event", **aside._asdict(), "at_s": seconds(aside.at_s)}
        else:
            line = {"kind": "resident", **aside._asdict()}
        text = _text(line)
        if self.num_bytes + len(text) > self.max_bytes + self.max_bytes // BESIDE:
            self.dropped_lines += 1
        else:
            self._put([text])

    def end(self, end: End) -> None:
        """The last line, for which there is always room; the file is closed."""
        self._put([_text({"kind": "end", **vars(end)})])
        self.close()

    def close(self) -> None:
        """No more lines. May be called twice."""
        self._file.close()

    def _take(self) -> None:
        """Empty the file, which is nobody else's before it is closed. (On Windows nothing is locked.)"""
        try:
            if sys.platform != "win32":
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.truncate(0)
        except BlockingIOError:
            self._file.close()
            raise InputError(f"{self.path} is being written by another process; choose another place") from None

    def _put(self, lines: Sequence[bytes]) -> None:
        if os.getpid() != self._process:
            return
        text = memoryview(b"".join(lines))
        end = self.num_bytes + len(text)
        try:
            while text:  # of a nearly full disk a part is taken, without an error
                text = text[self._file.write(text) :]
        except OSError as error:
            self._file.truncate(self.num_bytes)  # whole lines
            raise InputError(f"{self.path}: cannot be written: {error.strerror}; choose another place") from error
        self.num_bytes = end


def header_of(
    scheduler: Scheduler,
    hardware: HardwareProfile,
    clock: str,
    popularity_LE: FloatArray | None = None,
    lossless: bool = True,
) -> Header:
    """The header of a scheduler's run, before its first step."""
    model, timed = model_facts(scheduler.geometry), model_facts(scheduler.cost.geometry)
    slots = scheduler.residency.num_slots
    return Header(
        hetsched=__version__,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        clock=clock,
        model=model,
        timed_as=None if timed == model else timed,
        machine={"name": hardware.name, "title": hardware.title, "profile": profile_document(hardware)},
        policy=scheduler.policy.name,
        solver=str(getattr(scheduler.solver, "name", "")) if scheduler.traits.uses_solver else "",
        forecaster=str(getattr(scheduler.forecaster, "name", "")) if scheduler.forecaster else "",
        slots=slots,
        capacity_bytes=slots * scheduler.geometry.expert_bytes,
        lossless=lossless,
        resident=holders(scheduler),
        popularity=None if popularity_LE is None else tuple(tuple(row) for row in popularity_LE.tolist()),
    )


def holders(scheduler: Scheduler) -> tuple[tuple[int, ...], ...]:
    """Who holds slots now, by layer, copies under way included."""
    state_LE = scheduler.residency.state_LE
    return tuple(tuple(((row != ABSENT) & (row != NO_EXPERT)).nonzero()[0].tolist()) for row in state_LE)


def _text(line: dict[str, Any]) -> bytes:
    return json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
