"""Pictures of what a verb shows on a terminal, as SVG: `python -m hetsched.report.pictures OUT.svg -- demo`.

The verb runs on a pseudo-terminal of the size asked for, pyte keeps its screen, and rich draws that. So a picture is
what a person sees, colours and progress bars with it; `--screen` takes the last state of a verb's own screen (`run
--live`). The first line is the command. Nothing in a picture is loaded from elsewhere. POSIX only.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.text import Text

from hetsched.errors import InputError, MissingDependencyError
from hetsched.files import replacing

COLUMNS, ROWS, TALL = 80, 24, 400  # of a terminal, and rows that hold all that a verb prints
OWN_BEGINS, OWN_ENDS = b"\x1b[?1049h", b"\x1b[?1049l"  # a program's own screen
FONTS = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)  # of rich's template, which fetches them from a server
BROWN = {"brown": "yellow", "brightbrown": "bright_yellow", "bfightmagenta": "bright_magenta"}  # pyte's names


def shown(arguments: Sequence[str], columns: int, rows: int) -> bytes:
    """All that `python -m hetsched` with these arguments writes to a terminal of this size.

    Raises InputError with its last line where it fails.
    """
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    unsized = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "hetsched", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**unsized, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
    )
    os.close(theirs)
    written = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    if process.wait() != 0:
        lines = written.decode(errors="replace").strip().splitlines() or ["it failed"]
        raise InputError(f"hetsched {' '.join(arguments)} ended with {process.returncode}: {lines[-1]}")
    return written


def _read(place: int) -> bytes:
    try:
        return os.read(place, 1 << 16)
    except OSError:  # Linux: the other side is closed
        return b""


def screen_lines(written: bytes, columns: int, rows: int, *, own: bool = False) -> list[Text]:
    """Lines of a terminal's screen after `written`; with `own`, of a program's own screen when it was left.

    Raises InputError where there was no such screen.
    """
    try:
        import pyte
    except ModuleNotFoundError:
        raise MissingDependencyError("pyte", "a picture of a terminal", "pip install pyte") from None
    if own:
        _, begun, written = written.rpartition(OWN_BEGINS)
        if not begun:
            raise InputError("this verb has no screen of its own; drop --screen")
        written = written.partition(OWN_ENDS)[0]
    screen = pyte.Screen(columns, rows)
    pyte.ByteStream(screen).feed(written)
    lines = [_line([screen.buffer[y][x] for x in range(columns)]) for y in range(rows)]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    return lines


def _line(cells: Sequence[Any]) -> Text:
    """One line of pyte's characters."""
    line = Text()
    for (fg, bg, bold, italic, reverse), alike in groupby(cells, lambda c: (c.fg, c.bg, c.bold, c.italics, c.reverse)):
        style = Style(
            color=_colour(fg), bgcolor=_colour(bg), bold=bold or None, italic=italic or None, reverse=reverse or None
        )
        line.append("".join(cell.data for cell in alike), style)
    line.rstrip()
    return line


def _colour(name: str) -> str | None:
    if name == "default":
        return None
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    return BROWN.get(name, name.replace("bright", "bright_"))


def command_lines(arguments: Sequence[str], columns: int) -> list[Text]:
    """The command as it is typed, in lines that end with a backslash where it goes on."""
    pieces: list[str] = []
    for word in map(shlex.quote, arguments):
        if pieces and pieces[-1].startswith("--") and " " not in pieces[-1] and not word.startswith("-"):
            pieces[-1] += f" {word}"  # an option and its value stay together
        else:
            pieces.append(word)
    lines = ["$ hetsched"]
    for piece in pieces:
        if len(lines[-1]) + len(piece) + 3 > columns:  # a blank, and another with the backslash
            lines[-1] += " \\"
            lines.append("     ")
        lines[-1] += f" {piece}"
    return [Text(line, style="bold") for line in lines]


def svg_of(lines: Sequence[Text], columns: int, title: str) -> str:
    """The picture of a terminal with these lines."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=columns, file=nowhere, force_terminal=True, color_system="truecolor")
        for line in lines:
            console.print(line, no_wrap=True, overflow="ignore", crop=False)
        return console.export_svg(title=title, code_format=FONTS.sub("", CONSOLE_SVG_FORMAT), unique_id="hetsched")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one picture."""
    parser = argparse.ArgumentParser(prog="python -m hetsched.report.pictures", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT.svg", help="where the picture goes")
    parser.add_argument(
        "--columns", type=int, default=COLUMNS, metavar="N", help="of the terminal (default: %(default)s)"
    )
    parser.add_argument("--rows", type=int, metavar="N", help=f"of it (default: all; of a verb's own screen {ROWS})")
    parser.add_argument("--screen", action="store_true", help="the verb's own screen, as `run --live` has one")
    parser.add_argument("command", nargs="+", metavar="VERB ...", help="after --, as after 'hetsched'")
    args = parser.parse_args(argv)
    rows = args.rows or (ROWS if args.screen else TALL)
    try:
        lines = screen_lines(shown(args.command, args.columns, rows), args.columns, rows, own=args.screen)
        with replacing(args.out) as temporary:
            asked = command_lines(args.command, args.columns)
            picture = svg_of([*asked, *lines], args.columns, f"hetsched {args.command[0]}")
            temporary.write_text(f"{picture}\n", encoding="utf-8")
    except InputError as error:
        print(f"pictures: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
