"""The story of one expert through a run: when it came to the GPU, why and in whose place, its hits, when it went."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..cost.model import CostModel
from ..runlog import Frame, Layer, Move, RunLog
from .layer import SCHEMA

SAVED = (
    "for each hit that ran on the GPU, the cheaper of computing it on the CPU and fetching it, less what it took; each "
    "counted by itself, as if lanes did not overlap"
)
CAUSES = {
    "start": "placed before the first step",
    "fetch": "demanded, and fetching it beat the CPU",
    "missed": "demanded and missing, which this policy fetches",
    "prefetch": "the link was idle, and it was thought worth a place",
    "draft": "a draft named it",
    "reload": "slots were made or filled anew",
}


@dataclass
class Stay:
    """One stay on the GPU. `saved_s` as SAVED says; `until_step` None: to the end of the log."""

    from_step: int
    from_layer: int | None
    came: str
    why: str
    slot: int | None
    displaced: tuple[int, int] | None
    gain_s: float | None
    arrived_s: float | None
    until_step: int | None = None
    until_layer: int | None = None
    gone: str = ""
    hits: int = 0
    hits_on_cpu: int = 0
    saved_s: float = 0.0


def story(log: RunLog, layer: int, expert: int) -> dict[str, Any]:
    """The document "hetsched-explain/1" of an expert. Raises InputError naming the range for one that there is not."""
    log.check_layer(layer)
    log.check_expert(expert)
    told = _Story(log, (layer, expert))
    for row in log.layers:
        told.layer(row)
    header, lanes = log.header, told.lanes
    return {
        "schema": SCHEMA,
        "kind": "expert",
        "log": log.path,
        "clock": header.clock,
        "model": header.model["name"],
        "hardware": header.machine["name"],
        "policy": header.policy,
        "layer": layer,
        "expert": expert,
        "steps": log.steps,
        "demanded": sum(lanes.values()),
        "tokens": told.tokens,
        "lanes": lanes,
        "stays": [asdict(stay) for stay in told.stays],
        "copies": sum(stay.came != "start" for stay in told.stays),
        "copy_s": told.copy_s,
        "saved_s": sum(stay.saved_s for stay in told.stays),
        "saved": SAVED,
    }


class _Story:
    """Is told layers in order. `lanes`: demands by letter of the log."""

    def __init__(self, log: RunLog, expert: tuple[int, int]) -> None:
        self._log, self._expert = log, expert
        self._cost = CostModel(log.header.profile, log.header.timing)
        self.copy_s = self._cost.copy_s() if self._cost.has_gpu else 0.0
        self._arrived = {
            (copy.step, copy.at_layer): copy.end_s
            for copy in (log.copies() if self._cost.has_gpu else [])
            if (copy.move.layer, copy.move.expert) == expert and copy.ended
        }
        self._frames = list(log.frames)
        self.stays: list[Stay] = []
        self.tokens, self.lanes = 0, dict.fromkeys("rhifcx", 0)
        if expert[1] in log.header.resident[expert[0]]:
            self.stays.append(Stay(0, None, "start", CAUSES["start"], None, None, None, 0.0))

    @property
    def _here(self) -> Stay | None:
        return self.stays[-1] if self.stays and self.stays[-1].until_step is None else None

    def layer(self, row: Layer) -> None:
        """What one layer says of the expert."""
        while self._frames and self._frames[0].step <= row.step:
            self._frame(self._frames.pop(0), row)
        for move in row.moves:
            if move.kind != "prefetch":
                self._moved(move, row)
        for pair in row.evicts:
            if pair == self._expert:
                self._gone(row, "given up")
        if row.layer == self._expert[0] and self._expert[1] in row.experts:
            self._demanded(row, row.experts.index(self._expert[1]))
        for move in row.moves:
            if move.kind == "prefetch":
                self._moved(move, row)

    def _frame(self, frame: Frame, row: Layer) -> None:
        """Who holds slots by a key frame: after a resize there is no move that says so."""
        there = self._expert[1] in frame.experts[self._expert[0]]
        if frame.step == row.step and there and self._here is None:
            self.stays.append(Stay(row.step, row.layer, "reload", CAUSES["reload"], None, None, None, row.begin_s))
        elif frame.step == row.step and not there:
            self._gone(row, "its slot was given back, or its copy lost")

    def _moved(self, move: Move, row: Layer) -> None:
        if move.out == self._expert:
            self._gone(row, f"displaced by layer {move.layer} expert {move.expert} ({move.kind})")
        if (move.layer, move.expert) == self._expert:
            asks = move.kind != "fetch" or self._log.header.solver
            why, arrived_s = CAUSES[move.kind if asks else "missed"], self._arrived.get((row.step, row.layer))
            came = row.step, row.layer, move.kind, why, move.slot, move.out, move.gain_s
            self.stays.append(Stay(*came, arrived_s))

    def _gone(self, row: Layer, why: str) -> None:
        if (stay := self._here) is not None:
            stay.until_step, stay.until_layer, stay.gone = row.step, row.layer, why

    def _demanded(self, row: Layer, place: int) -> None:
        lane, tokens = row.lane[place], row.counts[place]
        self.lanes[lane] += 1
        self.tokens += tokens
        if (stay := self._here) is None or lane not in "rh":
            return
        stay.hits += 1
        stay.hits_on_cpu += lane == "h"
        if lane == "r":
            (cpu_s,), (gpu_s,) = self._cost.each_cpu_s([tokens]), self._cost.each_gpu_s([tokens])
            stay.saved_s += min(cpu_s, self.copy_s + gpu_s) - gpu_s
