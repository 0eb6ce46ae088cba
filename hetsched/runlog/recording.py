"""LayerLog: one run's log, from a board's numbers to lines.

In a layer numbers are copied (ring.py) and nothing else. Lines are made later: between requests, when the ring is
nearly full, and at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..types import Copies
from .lines import End, Event, Frame, Header, Move
from .ring import RING_WORDS, LayerRing
from .rows import layer_row
from .writing import MAX_BYTES, RunWriter, holders

if TYPE_CHECKING:
    from .logged import LoggedScheduler

FRAME_STEPS = 64
WAITING = 4096  # events and frames between two times that lines are made; further ones are counted
FAIRLY_FULL = 0.75  # of a ring, after which lines are made between two steps


class LayerLog:
    """What a scheduler does, on its way to a file.

    `at_once`: lines are made as soon as the ring is full; for a simulator, which need not hurry. Else whoever runs
    steps says `between_steps`, and layers that find the ring full are dropped, and counted.
    """

    def __init__(
        self,
        path: str | Path,
        header: Header,
        scheduler: LoggedScheduler,
        max_bytes: int = MAX_BYTES,
        num_words: int = RING_WORDS,
        at_once: bool = False,
    ) -> None:
        self.ring = LayerRing(scheduler.arrays, num_words)
        self.is_open = True  # else layers are only counted; whoever decides them writes to `ring`
        self._scheduler, self._experts = scheduler, header.num_experts
        self._at_once = at_once
        self._made = 0  # layers that are lines, or found no room in the file
        self._missed = self._missed_asides = 0
        self._asides: list[tuple[int, Event | Frame]] = []  # each with the layers before it
        self._drafted: dict[int, list[Move]] = {}  # between steps, by the layer that came next
        self._failed: dict[int, list[int]] = {}  # by layer
        self._slots, self.step = scheduler.residency.num_slots, -1
        self._is_over = False
        self.writer = RunWriter(path, header, max_bytes)

    def begin_step(self, step: int) -> None:
        """The first layer of a step is about to be decided."""
        slots = self._scheduler.residency.num_slots
        if slots != self._slots:
            self.event("resize", f"{slots} slots in place of {self._slots}")
            self.frame(step)
        elif step and step % FRAME_STEPS == 0:
            self.frame(step)
        self.step, self._slots = step, slots

    def full(self) -> None:
        """Another layer might find no room in the ring."""
        self.is_open = False
        if self._at_once:
            self.flush()

    def missed(self) -> None:
        """A layer was executed while the log was not open."""
        self._missed += 1

    def event(self, name: str, text: str, layer: int | None = None) -> None:
        """Something out of the ordinary, now."""
        at_s, step = self._scheduler.stats.total_s, max(0, self.step)
        self._aside(Event(at_s, step, layer, name, " ".join(text.split())))

    def frame(self, step: int) -> None:
        """Who holds slots, now."""
        self._aside(Frame(step, holders(self._scheduler)))

    def drafted(self, copies: Copies) -> None:
        """Copies for drafts, between steps."""
        slot = self._scheduler.residency.slot
        for expert, victim, _, _ in copies.fetches:
            out = None if victim is None else (victim.layer, victim.expert)
            move = Move("draft", *expert, slot(expert), out, None)
            self._drafted.setdefault(self._seen, []).append(move)

    def failed(self, experts: list[int]) -> None:
        """Experts of the layer about to be noted that the CPU computed in the end."""
        self._failed[self._seen] = experts

    def between_steps(self, new_request: bool) -> None:
        """Make lines where there is time for it, or where there must be."""
        if new_request or self.ring.filled > FAIRLY_FULL:
            self.flush()

    def flush(self) -> None:
        """Make lines of all that was recorded, and write them."""
        rows, drafted, failed = [], self._drafted, self._failed
        for place, raw in enumerate(self.ring.taken(), start=self._made):
            rows.append(layer_row(raw, self._experts, drafted.pop(place, ()), failed.pop(place, ())))
        asides, self._asides, done = self._asides, [], 0
        for before, aside in asides:
            self.writer.layers(rows[done : before - self._made])
            done = max(done, before - self._made)
            self.writer.aside(aside)
        self.writer.layers(rows[done:])
        self._made += len(rows)
        self.is_open = not self.writer.dropped and not self._is_over

    def end(self, stats: dict[str, Any]) -> None:
        """The run has ended; `stats` is what it came to. May be called twice."""
        if self._is_over:
            return
        self._is_over, own = True, self._scheduler.stats
        self.frame(self.step + 1)
        self.flush()
        lost = self._missed + self.writer.dropped, self._missed_asides + self.writer.dropped_lines
        self.writer.end(End(own.steps, own.layers, own.tokens, own.total_s, *lost, stats))

    def stop(self) -> None:
        """The run was cut short: what was recorded is written, and no end. May be called twice, or after the end."""
        if not self._is_over:
            self._is_over = True
            self.flush()
        self.writer.close()

    @property
    def _seen(self) -> int:
        return self._made + self.ring.count

    def _aside(self, aside: Event | Frame) -> None:
        if self._is_over and not isinstance(aside, Frame):
            return
        if len(self._asides) < WAITING:
            self._asides.append((self._seen, aside))
        else:
            self._missed_asides += 1
