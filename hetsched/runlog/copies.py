"""When each copy began and ended, from what the link said at one decision after another.

The link says of each copy under way how long it still takes; what is no longer under way at the next decision has
arrived in between, when it was said to if that is possible. One copy after the other: a copy that another came between
is told as its last stretch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..cost.model import CostModel
from .lines import Header, Layer, Move


class Copy(NamedTuple):
    """One copy: its move, the step and layer at which it set out, and when. `ended`: it had, when the log ended."""

    move: Move
    step: int
    at_layer: int
    set_out_s: float
    begin_s: float
    end_s: float
    ended: bool


@dataclass
class _Pending:
    move: Move
    step: int
    at_layer: int
    set_out_s: float
    end_s: float


class CopyTrack:
    """Is told layers in order, and tells copies in order of their ends. `copy_s`: of one copy, undisturbed."""

    def __init__(self, copy_s: float) -> None:
        self._copy_s = copy_s
        self._pending: dict[tuple[int, int], _Pending] = {}
        self._free_s = 0.0  # when the copy told last had ended

    def layer(self, row: Layer) -> Iterator[Copy]:
        """Copies that had ended when this layer was decided."""
        asked_s = row.decided_s - row.decide_s
        for move in row.moves:
            if move.kind == "draft":
                self._add(move, row, row.begin_s, row.begin_s + self._copy_s)
        yield from self._report(row, asked_s)
        free_s = row.decided_s + (max(0.0, row.link.free_s - row.decide_s) if row.link else 0.0)
        last_s = max([free_s, *(pending.end_s for pending in self._pending.values())])
        for move in row.moves:
            if move.kind == "fetch":
                free_s += self._copy_s
                last_s += self._copy_s
                self._add(move, row, row.decided_s, min(free_s, row.end_s))
            elif move.kind == "prefetch":
                last_s = max(last_s, row.decided_s + row.beside_s) + self._copy_s
                self._add(move, row, row.decided_s + row.beside_s, last_s)

    def rest(self, now_s: float) -> Iterator[Copy]:
        """Copies that were under way when the log ended."""
        for pending in self._in_order():
            if pending.set_out_s < now_s:
                yield self._ended(pending, min(pending.end_s, now_s), ended=False)

    def _report(self, row: Layer, now_s: float) -> Iterator[Copy]:
        under_way = {(layer, expert): left_s for layer, expert, left_s in row.link.flying} if row.link else {}
        for pending in self._in_order():
            expert = pending.move.layer, pending.move.expert
            if expert in under_way:
                pending.end_s = now_s + under_way[expert]
            else:
                del self._pending[expert]
                yield self._ended(pending, min(pending.end_s, now_s), ended=True)

    def _add(self, move: Move, row: Layer, set_out_s: float, end_s: float) -> None:
        self._pending[move.layer, move.expert] = _Pending(move, row.step, row.layer, set_out_s, end_s)

    def _in_order(self) -> list[_Pending]:
        return sorted(self._pending.values(), key=lambda pending: pending.end_s)

    def _ended(self, pending: _Pending, end_s: float, ended: bool) -> Copy:
        begin_s = max(self._free_s, pending.set_out_s, end_s - self._copy_s)
        self._free_s = end_s = max(begin_s, end_s)
        return Copy(pending.move, pending.step, pending.at_layer, pending.set_out_s, begin_s, end_s, ended)


def copies_of(layers: Iterable[Layer], copy_s: float) -> list[Copy]:
    """Every copy of a run, in order of their ends."""
    track, found, now_s = CopyTrack(copy_s), list[Copy](), 0.0
    for row in layers:
        found += track.layer(row)
        now_s = row.end_s
    return [*found, *track.rest(now_s)]


def copy_s_of(header: Header) -> float:
    """Seconds of one copy by the header's machine, 0 without a link."""
    cost = CostModel(header.profile, header.timing)
    return cost.copy_s() if cost.has_gpu else 0.0
