"""Slots as a heat map: a row a layer, a cell an expert; blocks of both where there is less room.

Shapes: L layers, E experts; R rows and C columns of cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from hetsched.board import RESIDENT
from hetsched.types import FloatArray, IntArray

LEVELS = "░▒▓█"  # of a block's experts that are there
ABSENT, MISSED = "·", "×"
IDLE, HIT, PARTLY, MISS, NOTHING = map(Style.parse, ("blue", "bold green", "yellow", "red", "dim"))
WIDEST = 4  # columns of a cell
LEGEND = (("█", HIT), " there and asked ", ("█", IDLE), " idle ", (MISSED, MISS), " missed")


class SlotsMap:
    """Experts on the GPU by state_LE, and which of them were asked for lately by asked_LE, in the room there is.

    A cell's sign is the share of its experts that are there (`×`: none, though some were asked for), its colour the
    share of lately asked tokens whose experts are there now.
    """

    def __init__(self, state_LE: Any, asked_LE: IntArray) -> None:
        self._there_LE = (np.asarray(state_LE) == RESIDENT).astype(float)
        self._asked_LE = asked_LE.astype(float)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = (options.height or 12) - 1
        yield from self._rows(options.max_width, max(height, 1))
        yield Text.assemble(*LEGEND)

    def _rows(self, width: int, height: int) -> Iterator[Segment]:
        """Segments, since a Text of a span for each cell takes ten times as long to draw."""
        layers, experts = self._there_LE.shape
        label = len(str(layers - 1)) + 1
        per_row, per_cell = -(-layers // height), -(-experts // max(width - label, 1))
        there_RC = blocks(self._there_LE, per_row, per_cell) / blocks(np.ones_like(self._there_LE), per_row, per_cell)
        asked_RC = blocks(self._asked_LE, per_row, per_cell)
        hit_RC = blocks(self._asked_LE * self._there_LE, per_row, per_cell)
        wide = min(WIDEST, max(1, (width - label) // there_RC.shape[1]))
        for r in range(len(there_RC)):
            yield Segment(f"{r * per_row:>{label - 1}} ", NOTHING)
            facts = zip(there_RC[r].tolist(), asked_RC[r].tolist(), hit_RC[r].tolist(), strict=True)
            for style, alike in groupby((_cell(*cell) for cell in facts), lambda cell: cell[1]):
                yield Segment("".join(sign * wide for sign, _ in alike), style)
            yield Segment.line()


def blocks(values_LE: FloatArray, per_row: int, per_cell: int) -> FloatArray:
    """Sums [R, C] over blocks of so many layers and experts; the last of each may be smaller."""
    rows = np.arange(0, values_LE.shape[0], per_row)
    columns = np.arange(0, values_LE.shape[1], per_cell)
    summed: FloatArray = np.add.reduceat(np.add.reduceat(values_LE, rows, axis=0), columns, axis=1)
    return summed


def _cell(there: float, asked: float, hit: float) -> tuple[str, Style]:
    """Sign and style of one cell; `there`: share of its experts, `asked` and `hit` in tokens."""
    style = IDLE if asked <= 0 else HIT if hit >= 0.9 * asked else PARTLY if hit >= 0.5 * asked else MISS
    if there <= 0:
        return (MISSED, MISS) if asked > 0 else (ABSENT, NOTHING)
    return LEVELS[math.ceil(there * len(LEVELS)) - 1], style
