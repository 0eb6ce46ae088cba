"""Consoles and tables of every verb: laid out by the width there is, nothing cut, nothing from outside read as markup.

A pipe has no width: every column is there, every line is whole, without colours. On a terminal that is too narrow,
columns go in their stated order, and the page says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.text import Text

UNLIMITED = 100_000  # columns, where no terminal reads
GAPS = (2, 1)  # columns between columns, where there is room and where there is little
LEAST_PROSE = 16


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that prints text as it is: no markup, no highlighting, and no line broken where no terminal reads."""
    made = _Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)
    if not made.is_jupyter and not made.file.isatty():
        made.width = UNLIMITED
    return made


def say(text: str) -> None:
    """Tell a person on standard error; a terminal breaks lines between words."""
    console(stderr=True).print(Text(text))


class _Console(Console):
    """rich's, which leaves it to the command line what follows when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        """Called while a BrokenPipeError is handled."""
        raise


@dataclass(frozen=True)
class Column:
    """`drop`: the order in which columns go where there is no room, 1 first; 0 stays. `prose`: broken between words."""

    heading: str
    right: bool = False
    drop: int = 0
    prose: bool = False


def figures(*headings: str, drop: Sequence[str] = ()) -> list[Column]:
    """Columns of figures, to the right; those in `drop` go first, in its order."""
    return [Column(h, right=True, drop=drop.index(h) + 1 if h in drop else 0) for h in headings]


class Sheet:
    """A table. Where even its last columns do not fit, rows become blocks of one figure a line."""

    def __init__(self, *columns: Column | str, title: str = "") -> None:
        self.columns = [column if isinstance(column, Column) else Column(column) for column in columns]
        self._title = title
        self._rows: list[tuple[list[Text], str]] = []

    def add(self, *cells: str | Text, style: str = "") -> None:
        """One row, a cell for each column."""
        assert len(cells) == len(self.columns)
        self._rows.append(([cell if isinstance(cell, Text) else Text(cell) for cell in cells], style))

    def dropped(self, width: int) -> list[str]:
        """Headings that have no room in so many columns."""
        shown = self._shown(width)
        return [self._heading(i) for i in range(len(self.columns)) if i not in shown]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        natural = max(_total(self._natural(), GAPS[0]), Text(self._title).cell_len)
        return Measurement(min(natural, options.max_width), min(natural, options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._title:
            yield Text(self._title, style="bold")
        shown = self._shown(options.max_width)
        natural, least = ([all_[i] for i in shown] for all_ in (self._natural(), self._least()))
        if _total(least, GAPS[-1]) > options.max_width:
            yield from self._blocks(shown)
            return
        gap = next(g for g in GAPS if _total(least, g) <= options.max_width)
        widths = _widened(least, natural, options.max_width - _total(least, gap))
        headings = [Text(self.columns[i].heading) for i in shown]
        rows = ([(headings, "bold")] if any(headings) else []) + [
            ([cells[i] for i in shown], style) for cells, style in self._rows
        ]
        for cells, style in rows:
            wrapped = [cell.wrap(console, width, overflow="fold") for cell, width in zip(cells, widths, strict=True)]
            for line in zip_longest(*wrapped, fillvalue=Text()):
                yield _joined(line, widths, [self.columns[i].right for i in shown], gap, style)

    def _heading(self, i: int) -> str:
        return self.columns[i].heading.replace("\n", " ")

    def _natural(self) -> list[int]:
        """Terminal columns that the longest line of each column takes."""
        texts = [[Text(c.heading), *(cells[i] for cells, _ in self._rows)] for i, c in enumerate(self.columns)]
        return [max(cell_len(line) for text in column for line in text.plain.split("\n")) for column in texts]

    def _least(self) -> list[int]:
        """Terminal columns that each can do with: prose needs its longest word."""
        words = [
            [cell_len(w) for cells, _ in self._rows for w in cells[i].plain.split()] for i in range(len(self.columns))
        ]
        return [
            min(natural, max([LEAST_PROSE, *words[i]])) if self.columns[i].prose else natural
            for i, natural in enumerate(self._natural())
        ]

    def _shown(self, width: int) -> list[int]:
        """The columns that have room, by number."""
        least, shown = self._least(), list(range(len(self.columns)))
        for i in sorted((i for i in shown if self.columns[i].drop), key=lambda i: self.columns[i].drop):
            if _total([least[i] for i in shown], GAPS[-1]) > width:
                shown.remove(i)
        return shown

    def _blocks(self, shown: Sequence[int]) -> Iterator[Text]:
        for cells, style in self._rows:
            for n, i in enumerate(i for i in shown if cells[i]):
                heading = f"{self._heading(i)}: " if self._heading(i) else ""
                yield Text(f"{'  ' if n else ''}{heading}", style, overflow="fold").append_text(cells[i])


def _total(widths: Sequence[int], gap: int) -> int:
    return sum(widths) + gap * (len(widths) - 1)


def _widened(least: Sequence[int], natural: Sequence[int], room: int) -> list[int]:
    """Widths from the least up to the natural ones, the most cramped first."""
    widths = list(least)
    for _ in range(room):
        cramped = [i for i, width in enumerate(widths) if width < natural[i]]
        if not cramped:
            break
        widths[max(cramped, key=lambda i: natural[i] / widths[i])] += 1
    return widths


def _joined(parts: Iterable[Text], widths: Sequence[int], right: Sequence[bool], gap: int, style: str) -> Text:
    line = Text(style=style)
    for part, width, to_right in zip(parts, widths, right, strict=True):
        blank = " " * (width - part.cell_len)
        line.append(blank if to_right else "").append_text(part).append(" " * gap if to_right else blank + " " * gap)
    line.rstrip()
    return line


class Page:
    """Parts one beneath the other; at the end, what a wider terminal would show."""

    def __init__(self, *parts: RenderableType, more: str = "--json") -> None:
        self._parts = [Text(part) if isinstance(part, str) else part for part in parts]
        self._more = more

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        dropped: dict[str, None] = {}
        for part in self._parts:
            if isinstance(part, Sheet):
                dropped |= dict.fromkeys(part.dropped(options.max_width))
            yield part
        if dropped:
            yield Text(f"a wider terminal or {self._more} shows: {', '.join(dropped)}", style="dim")


def to_copy(text: str) -> Text:
    """A line that is copied as it is: wider than the terminal, it goes on there, and is still one line.

    For a console that is asked not to crop.
    """
    return Text(text, no_wrap=True, overflow="ignore")


def notes(texts: Sequence[str]) -> list[Text]:
    """Remarks beneath a table, each once."""
    return [Text(f"· {text}", style="dim") for text in dict.fromkeys(texts)]
