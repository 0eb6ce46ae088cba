"""Nothing is cut at 80 columns: the demo's views, what a run says, progress bars; and no other tables than ours."""

from __future__ import annotations

import ast
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console, RenderableType

import hetsched
from hetsched.cost.model import CostModel
from hetsched.demo_model.progress import Stages
from hetsched.loading.progress import LoadProgress
from hetsched.machine import gallery
from hetsched.report.demo_view import hardware_view, notes, strategy_table
from hetsched.report.tables import say

PACKAGE = Path(hetsched.__file__).parent
STRATEGIES = ("cpu-only", "layer-split", "on-demand-lru", "static-frequency", "hetsched")


def at_80(view: RenderableType) -> str:
    """What 80 columns show; no line is longer."""
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    return shown


def row(policy: str) -> dict[str, Any]:
    """A strategy's stats, with figures as long as they may come on a slow machine."""
    return {
        "policy": policy,
        "tokens_per_s": 1234.5,
        "hit_rate": 1.0,
        "bytes_per_token": 1023 << 20,
        "stall_s_per_token": 1.23456,
        "decision_s": 1.2345,
        "layers": 1000,
        "timed_as": "qwen3-30b-a3b",
        "hardware": "rtx-4060-laptop-8gb",
    }


def test_the_strategies_of_the_demo() -> None:
    shown = at_80(strategy_table([row(name) for name in STRATEGIES]))
    for word in (*STRATEGIES, "decide/layer", "stall/token", "moved/token", "1234.56 ms", "1234 µs", "1023.0 MiB"):
        assert word in shown
    assert "rtx-4060-laptop-8gb by datasheet" in " ".join(at_80(notes(row("hetsched"))).split())


@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "qwen3-235b-a22b"])
def test_the_machine_of_the_demo(model: str) -> None:
    geometry, machine = gallery.model(model), gallery.machine("rtx-4060-laptop-8gb")
    handle = SimpleNamespace(
        scheduler=SimpleNamespace(cost=CostModel(machine, geometry)),
        geometry=geometry,
        hardware=machine,
        engine=SimpleNamespace(gpu_expert_bytes=geometry.all_slots_bytes // 4),
    )
    shown = at_80(hardware_view(handle))
    assert {line[-1] for line in shown.splitlines()} == set("╮│╯")
    assert "in host memory" in " ".join(shown.replace("│", " ").split())


def test_what_a_run_says_is_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal; elsewhere a line is a line."""
    words = [f"word-{i}" for i in range(40)]

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, columns in ((Terminal(), 80), (io.StringIO(), 10_000)):
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("TERM", "xterm")
        say(" ".join(words))
        lines = stream.getvalue().splitlines()
        assert [word for line in lines for word in line.split()] == words
        assert (len(lines) == 1) == (columns > 80)
        assert max(map(len, lines)) <= columns


def test_a_long_build_has_its_times() -> None:
    """The words of a bar take a second line before a figure loses a digit."""
    stages = Stages({"text": 1.0}, title="demo model", shown=True)
    stages._bar.update(stages._task, description="demo model: letting it write the text to fit on, once more")
    shown = at_80(stages._bar.get_renderable())
    assert "0:00:00 left -:--:--" in " ".join(shown.split())
    assert "once more" in shown


def test_a_load_with_a_long_name_has_its_bytes() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    name = "some-organisation-with-a-name/and-a-model-of-235b-a22b-instruct-fp8"
    with LoadProgress(name, 200 << 30, shown=True, console=console) as progress:
        progress.advance(100 << 30)
        shown = at_80(progress._bar.get_renderable())
    assert "100.0/200.0 GiB" in shown


def test_tables_are_laid_out_in_one_place() -> None:
    """rich's own Table cuts cells with an ellipsis; ours, tested elsewhere, never do."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "rich.table":
                assert [alias.name for alias in node.names] == ["Column"], path
