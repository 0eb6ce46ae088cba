"""The mechanism: what goes where there is no room, and that nothing is ever cut."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from hetsched.report.tables import Column, Page, Sheet, console, figures


def shown(what: RenderableType, columns: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=columns).print(what)
    return out.getvalue().splitlines()


def sheet() -> Sheet:
    made = Sheet("name", *figures("first", "second", "third", drop=("third", "first")))
    made.add("alpha", "1,234.50", "2,345.60", "3,456.70")
    return made


def test_columns_go_in_their_stated_order() -> None:
    """All of them, then without the third, then without the first; the page says which."""
    assert shown(Page(sheet()), 80) == ["name      first    second     third", "alpha  1,234.50  2,345.60  3,456.70"]
    lines = shown(Page(sheet()), 31)
    assert lines[:2] == ["name      first    second", "alpha  1,234.50  2,345.60"]
    assert " ".join(lines[2:]).split() == ["a", "wider", "terminal", "or", "--json", "shows:", "third"]
    narrower = " ".join(shown(Page(sheet()), 20)[2:])
    assert " ".join(narrower.split()) == "a wider terminal or --json shows: first, third"


@pytest.mark.parametrize("columns", range(9, 60))
def test_every_figure_is_whole_at_any_width(columns: int) -> None:
    """Either in its row or, where not even the last columns fit, in a line of its own."""
    lines = shown(Page(sheet()), columns)
    assert max(map(len, lines)) <= columns
    text = " ".join("\n".join(lines).split())
    for heading, figure in (("first", "1,234.50"), ("second", "2,345.60"), ("third", "3,456.70")):
        assert figure in text or re.search(rf"shows:[^:]*{heading}", text)


def test_prose_breaks_between_words() -> None:
    """A figure beside it stays in its column, and a long word is never broken while there is room for it."""
    made = Sheet(Column("what", prose=True), *figures("size"))
    made.add("many words that do not fit beside /a/path/in/one/piece", "12.3")
    lines = shown(made, 40)
    assert max(map(len, lines)) <= 40
    assert sum("/a/path/in/one/piece" in line for line in lines) == 1
    assert lines[1].endswith("12.3")


@pytest.mark.parametrize("text", ["[red]x[/red].npz", "[/]", "[bold", ":smile:", "[link=x]y[/link]"])
def test_nothing_from_outside_is_markup(text: str) -> None:
    """Titles, headings, cells and lines stand as they came, even on a console that reads markup."""
    made = Sheet("name", Column(text), title=f"title {text}")
    made.add(text, "cell")
    printed = "\n".join(shown(Page(f"line {text}", made), 80))
    assert printed.count(text) == 4


def test_styles_are_kept() -> None:
    """A cell that is styled text keeps its style beside a row's."""
    made = Sheet("a")
    made.add(Text("x", style="red"), style="bold")
    out = io.StringIO()
    Console(file=out, width=20, force_terminal=True, color_system="standard").print(made)
    assert "\x1b[1;31mx" in out.getvalue()


def test_a_pipe_has_no_width(capsys: pytest.CaptureFixture[str]) -> None:
    """A line of any length is one line, without colours, whatever COLUMNS says."""
    console().print(Page(Text("word " * 500, style="red"), "[red]plain[/red]"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1] == "[red]plain[/red]"
    assert "\x1b" not in lines[0]
