"""SVG pictures of a terminal: what stood there, its colours, and nothing from anywhere else."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hetsched.errors import InputError
from hetsched.report.pictures import COLUMNS, command_lines, main, screen_lines, svg_of
from tests.report.screens import screen

OWN = b"before\x1b[?1049h\x1b[Hfirst\x1b[2J\x1b[Hsecond\x1b[?1049lafter"


def texts(picture: str) -> str:
    """All the text of an SVG, by lines; blanks as they are."""
    lines: dict[float, str] = {}
    for element in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text"):
        at = float(element.get("y", "0"))
        lines[at] = lines.get(at, "") + (element.text or "")
    return "\n".join(lines[at] for at in sorted(lines)).replace("\xa0", " ")


def test_what_stands_there_in_the_end() -> None:
    """A progress bar's steps write over each other; a colour is that of its cells."""
    (line,) = screen_lines(b" 10 %\r 90 %\r\x1b[K\x1b[32mdone\x1b[0m, \x1b[1;38;5;214mall\x1b[0m", 40, 5)
    assert line.plain == "done, all"
    styles = {line.plain[span.start : span.end]: span.style for span in line.spans}
    assert str(styles["done"]) == "green"
    assert str(styles["all"]) == "bold #ffaf00"


def test_a_screen_of_its_own_as_it_was_left() -> None:
    assert [line.plain for line in screen_lines(OWN, 40, 5, own=True)] == ["second"]
    with pytest.raises(InputError, match="drop --screen"):
        screen_lines(b"plain", 40, 5, own=True)


def test_a_command_goes_on_in_lines_that_fit() -> None:
    """Words with blanks are quoted, and what is shown can be typed."""
    lines = [line.plain for line in command_lines(["run", "--prompt", "What is a map?", *(["--option"] * 12)], 40)]
    assert lines[:2] == ["$ hetsched run \\", "      --prompt 'What is a map?' \\"]
    assert max(map(len, lines)) <= 40
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert not lines[-1].endswith("\\")


def test_an_svg_loads_nothing() -> None:
    """Well formed, the same each time, with no address but that of its own language."""
    lines = screen_lines(b"a < b & \x1b[31mc", 40, 2)
    picture = svg_of(lines, 40, "title")
    assert picture == svg_of(lines, 40, "title")
    assert "a < b & c" in texts(picture)
    assert set(re.findall(r"https?://[^\s\"<]+", picture)) <= {
        "http://www.w3.org/2000/svg",
        "https://www.textualize.io",
    }
    assert "@font-face" not in picture
    assert "url(http" not in picture


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_a_verb_as_a_person_sees_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command, then each of its lines; of a verb that fails its last line, and no picture."""
    path = tmp_path / "show.svg"
    asked = ["profiles", "show", "qwen3-30b-a3b"]
    assert main([str(path), "--", *asked]) == 0
    shown = texts(path.read_text(encoding="utf-8"))
    assert f"$ hetsched {' '.join(asked)}" in shown
    for line in screen(COLUMNS, *asked).splitlines():
        assert line.rstrip() in shown
    failed = tmp_path / "failed.svg"
    assert main([str(failed), "--", "profiles", "show", "no-such-thing"]) == 2
    assert "ended with 2: " in capsys.readouterr().err
    assert not failed.exists()
