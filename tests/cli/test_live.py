"""`run --live` on a pseudo-terminal: panels whole in any size, a clean terminal after it, plain lines in a pipe."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hetsched.cli import main
from hetsched.machine.demo_geometry import cached_folder
from tests.cli.chatting import MACHINE, chat_folder, configure, expected
from tests.cli.terminal import HOME, OWN_ENDS, Terminal

DEMO = cached_folder()  # the user's own, asked for before tests are given a cache of theirs
LONG = 250  # tokens: the run goes on when its first screen has been seen
PANELS = ("speed", "lanes", "guard", "slots", "predicted and measured")
posix = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_folder(checkpoint, tmp_path_factory.mktemp("live") / "model")


def asked(folder: Path, tokens: int, *more: str) -> list[str]:
    given = ["--prompt", "the sea was calm", "--max-new-tokens", str(tokens)]
    return ["run", "--live", "--model", str(folder), *given, *MACHINE, *more]


def is_drawn(written: bytes) -> bool:
    """Whether a screen is whole: another one has been begun."""
    return b"predicted" in written.rpartition(HOME)[0]


def is_whole(screen: list[str]) -> None:
    """Every panel is there, and each line ends where a border does: nothing has run over, nothing was cut."""
    text = "\n".join(screen)
    for panel in PANELS:
        assert panel in text
    assert "…" not in text
    assert {line[-1] for line in screen} <= set("╮│╯")
    assert {line[0] for line in screen} <= set("╭│╰")
    assert len({len(line) for line in screen}) == 1


@posix
def test_a_run_from_its_screen_to_its_summary(folder: Path) -> None:
    """It begins at 80 x 24, is pulled to 200 x 50 on the way, and ends with the text and the usual lines."""
    with Terminal(80, 24, *asked(folder, LONG, "--speculate", "2", "--greedy")) as terminal:
        terminal.until(is_drawn)
        small = terminal.own_screen()
        terminal.resize(200, 50)
        assert terminal.ended() == 0
    large = terminal.own_screen()
    for screen, columns, rows in ((small, 80, 24), (large, 200, 50)):
        is_whole(screen)
        assert (len(screen[0]), len(screen)) == (columns, rows)
        assert "drafts" in "\n".join(screen)
    made = expected(folder, "word1 the sea was calm word2", LONG, do_sample=False).split()
    shown = "\n".join(large)
    assert f"{LONG} of {LONG}" in shown
    assert " ".join(made[-5:]) in shown.replace("\n", " ")
    after = "\n".join(terminal.after())
    assert after.split()[: len(made)] == made
    assert "tokens/s (emulated" in after
    assert f"stopped at --max-new-tokens {LONG}" in after
    assert b"\x1b[?25h" in terminal.written.rpartition(b"\x1b[?25l")[2]  # the cursor is back


@posix
def test_ctrl_c_leaves_a_clean_terminal(folder: Path) -> None:
    """The old screen, the cursor, the text so far, one line, and the code of an interruption."""
    with Terminal(80, 24, *asked(folder, 100_000, "--greedy"), NO_COLOR="1") as terminal:
        terminal.until(is_drawn)
        is_whole(terminal.own_screen())
        terminal.press_ctrl_c()
        assert terminal.ended() == 130
    after = [line for line in terminal.after() if line]
    first = expected(folder, "word1 the sea was calm word2", 8, do_sample=False).split()
    assert after[0].split()[:2] == first[:2]
    assert after[-1] == "hetsched: interrupted; nothing is half-written"
    rest = terminal.written.partition(OWN_ENDS)[2]
    assert b"\x1b[?25h" in terminal.written.rpartition(b"\x1b[?25l")[2]
    assert b"\x1b[3" not in rest  # no colour, as asked


@posix
@pytest.mark.model
@pytest.mark.skipif(not (DEMO / "config.json").is_file(), reason="the demo model is not built: hetsched demo builds it")
def test_the_demo_model_writes_its_text() -> None:
    with Terminal(80, 24, *asked(DEMO, 6, "--greedy")) as terminal:
        assert terminal.ended() == 0
    screen = terminal.own_screen()
    is_whole(screen)
    assert "6 of 6" in "\n".join(screen)
    assert "30 layers x 16" in "\n".join(screen)


def test_a_pipe_gets_the_text_and_plain_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(asked(folder, 33, "--greedy")) == 0
    out, err = capsys.readouterr()
    assert out.split() == expected(folder, "word1 the sea was calm word2", 33, do_sample=False).split()
    lines = [line for line in err.splitlines() if "of 33 tokens: " in line]
    assert [line.partition(" ")[0] for line in lines] == ["16", "32"]
    assert all("tokens/s (emulated), hit rate" in line for line in lines)
    assert "\x1b" not in out + err


@pytest.mark.parametrize("other", ["--chat", "--json"])
def test_what_has_no_screen_is_refused(folder: Path, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*asked(folder, 3), other]) == 2
    assert "drop one of the two" in capsys.readouterr().err


def test_beams_are_refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beams = chat_folder(checkpoint, tmp_path / "beams")
    configure(beams, num_beams=2)
    assert main(asked(beams, 3)) == 2
    assert "drop --live, or add --greedy" in capsys.readouterr().err
