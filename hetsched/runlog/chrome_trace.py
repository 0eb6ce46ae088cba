"""A run log as a Chrome trace: JSON that ui.perfetto.dev and chrome://tracing open. One track for each lane.

Format: "Trace Event Format" (Google, catapult project): complete events ("X") with `ts` and `dur` in microseconds,
counters ("C"), instants ("i") and metadata ("M"). Slices of one track never overlap, and their timestamps ascend.

What is drawn is what was logged: busy seconds of each lane, shared out among a layer's experts by the machine's
profile, with an expert that waited for its copy after that; copies as copies.py has them. LINK out has what the profile
says of the activations' way to the host, since nothing else goes there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..cost.model import ACTIVATION_BYTES, CostModel
from ..files import replacing
from .copies import Copy, CopyTrack
from .lines import ON_GPU, End, Event, Header, Layer
from .reading import Line, stream

TRACKS = GPU, LINK_IN, LINK_OUT, CPU, HOST, DECISIONS = "GPU", "LINK in", "LINK out", "CPU", "host", "decisions"
PROCESS = 1
NOTE = "copies as the link reported them; a lane's seconds shared out among its experts by the machine's profile"


def write_trace(log: str | Path, path: str | Path) -> int:
    """Write a log's trace, line by line; how many events it has. Raises InputError for what is no log, or no place."""
    lines = stream(log)
    header = next(lines)
    assert isinstance(header, Header)
    count = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit":"ms","otherData":' + json.dumps(_facts(header)) + ',"traceEvents":[\n')
        for event in trace_events(header, lines):  # type: ignore[arg-type]
            file.write(("," if count else "") + json.dumps(event, separators=(",", ":"), allow_nan=False) + "\n")
            count += 1
        file.write("]}\n")
    return count


def trace_events(header: Header, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
    """The events of a run, each track's in order of time."""
    yield from _metadata(header)
    drawn, last_s = _Drawing(header), 0.0
    for line in lines:
        if isinstance(line, Layer):
            yield from drawn.layer(line)
            last_s = line.end_s
        elif isinstance(line, Event):
            yield from drawn.event(line)
        elif isinstance(line, End):
            last_s = max(last_s, line.seconds)
    yield from drawn.rest(last_s)


def _facts(header: Header) -> dict[str, Any]:
    machine = header.machine["title"] or header.machine["name"]
    facts = {"model": header.model["name"], "machine": machine, "policy": header.policy, "clock": header.clock}
    return {**facts, "hetsched": header.hetsched, "date": header.date, "note": NOTE}


def _metadata(header: Header) -> Iterator[dict[str, Any]]:
    name = f"{header.model['name']} on {header.machine['name']}, {header.policy} ({header.clock})"
    yield {"ph": "M", "pid": PROCESS, "tid": 0, "name": "process_name", "args": {"name": name}}
    for tid, track in enumerate(TRACKS, start=1):
        yield {"ph": "M", "pid": PROCESS, "tid": tid, "name": "thread_name", "args": {"name": track}}
        yield {"ph": "M", "pid": PROCESS, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}}


class _Drawing:
    """Layers as events; keeps where each track ends, copies under way, and the counts of the step under way."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._down = header.profile.d2h
        self._cost = CostModel(header.profile, header.timing)
        self._copies = CopyTrack(self._cost.copy_s() if self._cost.has_gpu else 0.0)
        self._end_ns = dict.fromkeys(TRACKS, 0)
        self._tid = {track: tid for tid, track in enumerate(TRACKS, start=1)}
        self._step: list[Layer] = []

    def layer(self, row: Layer) -> Iterator[dict[str, Any]]:
        """One layer's slices, copies that have ended, and the counters of a step that is over."""
        if self._step and row.step != self._step[0].step:
            yield from self._counters()
            self._step = []
        self._step.append(row)
        copies = list(self._copies.layer(row))
        yield from map(self._copy, copies)
        at = {"step": row.step, "layer": row.layer}
        host_s, decide_s = row.begin_s + row.dense_s, row.begin_s + row.dense_s + row.host_s
        if row.dense_s:
            yield self._slice(GPU, "rest of the layer", row.begin_s, row.dense_s, {**at, "tokens": row.tokens})
        if row.host_s:
            yield self._slice(HOST, "engine", host_s, row.host_s, at)
        yield self._slice(DECISIONS, f"layer {row.layer}", decide_s, row.decide_s, {**at, **_decision(row)})
        if row.beside_s:
            ahead = {**at, "chosen": [_said(move) for move in row.moves if move.kind == "prefetch"]}
            yield self._slice(DECISIONS, "look ahead", row.decided_s, row.beside_s, ahead)
        yield from self._on_gpu(row, at)
        yield from self._on_cpu(row, at)

    def event(self, event: Event) -> Iterator[dict[str, Any]]:
        """An instant among the decisions."""
        place = {"pid": PROCESS, "tid": self._tid[DECISIONS], "ts": _us(round(1e9 * event.at_s)), "s": "g"}
        yield {"ph": "i", "name": event.name, **place, "args": {"step": event.step, "text": event.text}}

    def rest(self, now_s: float) -> Iterator[dict[str, Any]]:
        """Copies that were under way at the end, and the last step's counters."""
        yield from map(self._copy, self._copies.rest(now_s))
        if self._step:
            yield from self._counters()

    def _on_gpu(self, row: Layer, at: dict[str, int]) -> Iterator[dict[str, Any]]:
        there = [(e, n, lane) for e, n, lane in zip(row.experts, row.counts, row.lane, strict=True) if lane in ON_GPU]
        if not there or not self._cost.has_gpu:
            return
        there.sort(key=lambda run: "rif".index(run[2]))
        each_s = self._cost.each_gpu_s([n for _, n, _ in there])
        busy_s = max(0.0, row.gpu_s - row.dense_s)
        scale, stalls = busy_s / (sum(each_s) or 1.0), sum(lane != "r" for _, _, lane in there)
        now_s = row.decided_s
        for (expert, tokens, lane), one_s in zip(there, each_s, strict=True):
            now_s += row.stall_s / stalls if lane != "r" else 0.0
            told = {**at, "expert": expert, "tokens": tokens, "came": NAMES[lane]}
            yield self._slice(GPU, f"expert {expert}", now_s, scale * one_s, told)
            now_s += scale * one_s

    def _on_cpu(self, row: Layer, at: dict[str, int]) -> Iterator[dict[str, Any]]:
        there = [(e, n, lane) for e, n, lane in zip(row.experts, row.counts, row.lane, strict=True) if lane in "chx"]
        if not there:
            return
        down = self._down if self._cost.has_gpu else None
        begin_s, start_s = row.decided_s, min(row.cpu_s, self._cost.cpu_start_s(row.tokens))
        if down is not None:
            num_bytes = row.tokens * self._header.model["hidden"] * ACTIVATION_BYTES
            told = {**at, "bytes": num_bytes, "from": "profile"}
            yield self._slice(LINK_OUT, "activations", begin_s, min(down.seconds(num_bytes), row.measured_s), told)
        each_s = self._cost.each_cpu_s([n for _, n, _ in there])
        scale, now_s = (row.cpu_s - start_s) / (sum(each_s) or 1.0), begin_s + start_s
        for (expert, tokens, lane), one_s in zip(there, each_s, strict=True):
            told = {**at, "expert": expert, "tokens": tokens, "came": NAMES[lane]}
            yield self._slice(CPU, f"expert {expert}", now_s, scale * one_s, told)
            now_s += scale * one_s

    def _copy(self, copy: Copy) -> dict[str, Any]:
        move = copy.move
        told: dict[str, Any] = {"layer": move.layer, "expert": move.expert, "slot": move.slot, "in place of": move.out}
        told |= {"kind": move.kind, "set out in step": copy.step, "at layer": copy.at_layer, "ended": copy.ended}
        if move.gain_s is not None:
            told["gain_us"] = round(1e6 * move.gain_s, 1)
        return self._slice(LINK_IN, f"{move.kind} {move.layer}.{move.expert}", copy.begin_s, _length_s(copy), told)

    def _counters(self) -> Iterator[dict[str, Any]]:
        """Of the step that is over, at its end."""
        rows, size = self._step, self._header.model["expert_bytes"]
        active, hits = sum(len(row.experts) for row in rows), sum(row.hits for row in rows)
        moved = size * sum(len(row.moves) for row in rows)
        at_us = _us(round(1e9 * rows[-1].end_s))
        for name, values in (
            ("hit rate", {"share": hits / active if active else 0.0}),
            ("slots", {"slots": rows[-1].slots}),
            ("bytes moved in a step", {"bytes": moved}),
        ):
            yield {"ph": "C", "pid": PROCESS, "tid": 0, "name": name, "ts": at_us, "args": values}

    def _slice(self, track: str, name: str, begin_s: float, long_s: float, told: dict[str, Any]) -> dict[str, Any]:
        """One slice, after those before it in its track; in whole nanoseconds, so that none overlap by rounding."""
        begin_ns = max(self._end_ns[track], round(1e9 * begin_s))
        end_ns = max(begin_ns, round(1e9 * (begin_s + long_s)))
        self._end_ns[track] = end_ns
        place = {"pid": PROCESS, "tid": self._tid[track], "ts": _us(begin_ns), "dur": _us(end_ns - begin_ns)}
        return {"ph": "X", "cat": track, "name": name, **place, "args": told}


NAMES = {
    "r": "resident",
    "i": "was on its way",
    "f": "fetched",
    "c": "absent",
    "h": "resident, and sooner on the CPU",
    "x": "failed elsewhere",
}


def _decision(row: Layer) -> dict[str, Any]:
    told: dict[str, Any] = {"phase": row.phase, "experts": row.experts, "tokens of each": row.counts, "lane": row.lane}
    told |= {"predicted_us": round(1e6 * row.predicted_s, 1), "measured_us": round(1e6 * row.measured_s, 1)}
    fetched: Sequence[str] = [_said(move) for move in row.moves if move.kind == "fetch"]
    return {**told, "solver": row.solver, "fetched": fetched}


def _said(move: Any) -> str:
    place = "a free slot" if move.out is None else f"{move.out[0]}.{move.out[1]}"
    return f"{move.layer}.{move.expert} in place of {place}"


def _length_s(copy: Copy) -> float:
    return copy.end_s - copy.begin_s


def _us(nanoseconds: int) -> float:
    return nanoseconds / 1000
