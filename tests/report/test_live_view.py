"""The live screen: whole in any size, honest about what it shows, and drawn from the run's counts alone."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from hetsched.board import ABSENT, COPYING, RESIDENT
from hetsched.report.live_reading import LiveReading, Window
from hetsched.report.live_view import LiveView, live_line
from hetsched.report.slots_map import SlotsMap
from hetsched.shadow.watchdog import REASONS, WORSE, Move
from hetsched.stats import RunStats

SUMS = ("decode_tokens", "decode_s", "active", "hits", "total_s", "gpu_s", "link_s", "cpu_s")


def drawn(view: RenderableType, columns: int, rows: int, *, colours: bool = False) -> list[str]:
    console = Console(
        file=io.StringIO(),
        width=columns,
        height=rows,
        force_terminal=colours,
        color_system="truecolor" if colours else None,
    )
    console.print(view, height=rows, end="")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().removesuffix("\n").split("\n")


def reading(layers: int = 94, experts: int = 128, **more: Any) -> LiveReading:
    """A run with the largest figures and the longest names that may come."""
    move = Move(123456, "hetsched", "static-frequency", 0.12345, 0.11111, REASONS[WORSE])
    classes = ("gpu", "cpu", "copy", "dense", "layers", "decision", "host")
    stats = {
        **RunStats(123 << 20).as_dict(),
        "tokens_per_s": 1234.5,
        "hit_rate": 1.0,
        "emulated": True,
        "lossless": False,
        "slots": 12_032,
        "resizes": 3,
        "bytes_per_token": 12_345 << 20,
        "predictions": {name: {"predicted_s": 1.2345, "measured_s": 0.9999, "ratio": 12.34} for name in classes},
        "moves": [move._asdict()],
        "faults": {"copy": 12},
        "tokens": 1,
    }
    rng = np.random.default_rng(0)
    state_LE, asked_LE = rng.integers(ABSENT, RESIDENT + 1, (layers, experts)), rng.integers(0, 2, (layers, experts))
    lately, _ = Window().since(dict.fromkeys(SUMS, 1.0), asked_LE)
    title = "a-long-name-of-235b-a22b", "rtx-4060-laptop-8gb (emulated)", "on-demand-lru"
    busy = {"gpu": 1.0, "link": 0.5, "cpu": 0.0}
    made = LiveReading(
        title, "why?", "", 99_999, 100_000, 1e4, stats, None, state_LE, asked_LE, lately._replace(busy=busy)
    )
    return replace(made, **more)


DRAFTS = {"tokens_per_s": 1234.5, "acceptance": 1.0, "drafted": 123_456}


@pytest.mark.parametrize("speculation", [None, DRAFTS], ids=["plain", "drafts"])
@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (81, 25), (120, 40), (200, 50)])
def test_every_panel_is_whole(columns: int, rows: int, speculation: dict[str, Any] | None) -> None:
    """Whole borders, so nothing runs over; the guard's longest words to their last, and every figure."""
    made = reading(speculation=speculation, text="word " * 500 + "end")
    lines = drawn(LiveView(made), columns, rows)
    assert len(lines) == rows
    assert {len(line) for line in lines} == {columns}
    assert {line[0] for line in lines} | {line[-1] for line in lines} == set("╭╮│╰╯")
    text = "\n".join(lines)
    assert "…" not in text
    words = text.split()
    figures = "12032 12.1 GiB 1234 1234.50 999.90 12.34 123.45 111.11 100%"
    assert set(f"LOSSY end {figures} static-frequency layers GPU LINK missed".split()) <= set(words)
    assert "(emulated)" in text
    assert ("123456 kept" in text) == (speculation is not None)


@given(st.integers(1, 220), st.integers(1, 60))
def test_no_size_is_too_small(columns: int, rows: int) -> None:
    """No line is longer than the terminal."""
    lines = drawn(LiveView(reading(text="one two three")), columns, rows)
    assert max(len(line) for line in lines) <= columns


def test_only_what_is_lossy_is_called_so_and_in_red() -> None:
    stats = {**reading().stats, "lossless": True}
    assert "\x1b[1;31mLOSSY" in drawn(LiveView(reading()), 80, 24, colours=True)[0]
    first = drawn(LiveView(reading(stats=stats)), 80, 24, colours=True)[0]
    assert "LOSSY" not in first
    assert "\x1b[1;31m" not in first


def test_a_text_moves_no_cursor() -> None:
    """Escape sequences of a model's text are blanks, and its end is what is seen."""
    lines = drawn(LiveView(reading(text="\x1b[2J\x07\tred\x1b[31m herring\n" + "the end")), 80, 24)
    text = "\n".join(lines)
    assert not {sign for sign in text if ord(sign) < 32} - {"\n"}
    assert "[2J" in text
    assert "the end" in text


def test_before_the_first_token_no_speed_is_claimed() -> None:
    stats = {**reading().stats, "tokens_per_s": 0.0, "moves": [], "faults": {}, "resizes": 0, "predictions": {}}
    made = reading(stats=stats, tokens=0)
    text = "\n".join(drawn(LiveView(made), 80, 24))
    assert "reading the prompt" in text
    assert "nothing to report" in text
    assert "reading the prompt" in live_line(made)


def test_one_line_says_what_its_figures_are() -> None:
    assert live_line(reading()) == (
        "99999 of 100000 tokens: 1234.5 tokens/s (emulated), hit rate 100%, busy GPU 100%, LINK 50%, CPU 0%"
    )


def test_lately_is_a_difference() -> None:
    """Of the last readings; where nothing has happened since, nothing is said. Demand is since the last one."""
    window, ones_LE = Window(), np.ones((2, 3), np.int64)
    first = dict.fromkeys(SUMS, 10.0)
    lately, asked_LE = window.since(first, ones_LE)
    assert (lately.tokens_per_s, lately.hit_rate) == (None, None)
    assert asked_LE.tolist() == ones_LE.tolist()
    now = {
        **first,
        "decode_tokens": 16.0,
        "decode_s": 13.0,
        "active": 14.0,
        "hits": 11.0,
        "total_s": 14.0,
        "gpu_s": 13.0,
    }
    lately, asked_LE = window.since(now, 3 * ones_LE)
    assert (lately.tokens_per_s, lately.hit_rate) == (2.0, 0.25)
    assert lately.busy == {"gpu": 0.75, "link": 0.0, "cpu": 0.0}
    assert asked_LE.tolist() == (2 * ones_LE).tolist()
    assert window.since(now, 3 * ones_LE)[1].tolist() == (2 * ones_LE).tolist()  # drawn again: nothing is new


def test_a_cell_an_expert_where_there_is_room() -> None:
    """There and asked, there and idle, on its way and asked, neither: each its sign and its colour."""
    state_LE, asked_LE = np.array([[RESIDENT, RESIDENT, COPYING, ABSENT]]), np.array([[2, 0, 1, 0]])
    (line, *_) = drawn(SlotsMap(state_LE, asked_LE), 6, 2)
    assert line.rstrip() == "0 ██×·"
    (line, *_) = drawn(SlotsMap(state_LE, asked_LE), 6, 2, colours=True)
    green, blue, red = "\x1b[1;32m█", "\x1b[34m█", "\x1b[31m×"
    assert line.index(green) < line.index(blue) < line.index(red)


def test_blocks_where_there_is_none() -> None:
    """Four layers of six experts in two rows of three columns: a quarter of a block, half of one, all of one."""
    state_LE = np.array([[1, 0, 1, 0, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]) * RESIDENT
    asked_LE = np.zeros((4, 6), np.int64)
    asked_LE[3, 0] = 1
    first, second, *_ = drawn(SlotsMap(state_LE, asked_LE), 5, 3)
    assert first.rstrip() == "0 ░▒█"
    assert second.rstrip() == "2 ×·░"


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(1, 40), st.integers(36, 60), st.integers(2, 14))
    )
)
def test_the_map_keeps_to_its_room(shape: tuple[int, int, int, int]) -> None:
    layers, experts, columns, rows = shape
    lines = drawn(SlotsMap(np.full((layers, experts), RESIDENT), np.zeros((layers, experts), np.int64)), columns, rows)
    shown = [line for line in lines if "█" in line and "there" not in line]
    assert 1 <= len(shown) <= rows - 1
    assert all(len(line.rstrip()) <= columns for line in shown)
