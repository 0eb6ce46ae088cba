"""Page: what a report says, section by section, and the one HTML file that it becomes.

Texts may come from files of others: the template escapes every one of them. Only figures' SVG and the style sheet are
taken as they are, and they are made here. Figures gather a run into bins and spans of a fixed number, so that a page
has a few hundred KiB, however long the run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .drawing import DARK, readable
from .inline_svg import StyleSheet, inline_svg

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Figure:
    """One picture. `draw`: makes it, by matplotlib; `origin`: where its numbers are from, one word, as in "simulated".

    `caption` says what is seen and how it was gathered; `alt` what it comes to, for who does not see it. `wide`: over
    all columns of a large screen, for several pictures side by side.
    """

    key: str
    title: str
    origin: str
    caption: str
    alt: str
    draw: Callable[[], Any]
    wide: str = ""


@dataclass(frozen=True)
class Tile:
    """One number of the summary, what it is, and a remark beneath."""

    value: str
    name: str
    remark: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of texts; columns after the first are numbers and stand to the right. `marked`: rows that stand out."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Section:
    """A heading with what stands beneath it, each part left out where it is empty."""

    title: str
    text: str = ""
    figures: Sequence[Figure] = ()
    table: Table | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A report. `origin`: of all its numbers, and `origin_text`, what that means; `warnings`: what is missing."""

    title: str
    subtitle: str
    origin: str
    origin_text: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    warnings: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = field(default=())

    def html(self) -> str:
        """The whole file: no script, no link, nothing loaded; the content policy allows this one style sheet alone."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup

        styles = StyleSheet(DARK)
        drawn = {figure.key: _drawn(figure, styles) for section in self.sections for figure in section.figures}
        css = (FOLDER / "page.css").read_text(encoding="utf-8") + styles.css()
        environment = Environment(
            loader=FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            finalize=lambda value: readable(value) if type(value) is str else value,
        )
        template = environment.get_template("page.html.j2")
        return template.render(page=self, drawn=drawn, css=Markup(css), digest=_digest(css))


def _drawn(figure: Figure, styles: StyleSheet) -> Sequence[Any]:
    """The pictures of a figure, as markup: usually one."""
    from markupsafe import Markup

    made = figure.draw()
    pictures = made if isinstance(made, list) else [made]
    return [Markup(inline_svg(picture, f"{figure.key}-{i}", styles)) for i, picture in enumerate(pictures)]


def _digest(css: str) -> str:
    return base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
