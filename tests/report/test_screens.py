"""Every verb that prints tables, on a terminal of 80 columns and through a pipe."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.documents import document_of
from tests.report.screens import piped, screen, small_trace

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
MACHINE = "rtx-4060-laptop-8gb"


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_trace(tmp_path_factory.mktemp("traces"))


@pytest.fixture(scope="module")
def replay(trace: Path) -> list[str]:
    return [
        "--trace",
        str(trace),
        "--model",
        "demo",
        "--hardware",
        MACHINE,
        "--decision",
        "2e-5",
        "--bound-windows",
        "1",
    ]


def row(text: str, name: str) -> str:
    (line,) = [line for line in text.splitlines() if re.search(rf"(^|\s){re.escape(name)}\s", line)]
    return line


def test_compare(replay: list[str]) -> None:
    """A row a strategy with its whole figures; what is dropped is named, and a pipe has it."""
    asked = ["compare", *replay, "--strategies", "belady,static-frequency,moe-spac-fixed"]
    rows = document_of(piped(*asked, "--json")[0])["rows"]
    narrow, whole = screen(80, *asked), piped(*asked)[0]
    for r in rows:
        always = [f"{r['tokens_per_s']:.1f}", f"{1e3 * r['step_s']:.2f}", f"{r['hit_rate']:.1%}"]
        dropped = [f"{r['late_share']:.1%}", f"{1e3 * r['decision_s_per_token']:.2f}"]
        assert set(always) <= set(row(narrow, r["strategy"]).split())
        assert {*always, *dropped, f"{1e3 * r['stall_s_per_token']:.2f}"} <= set(row(whole, r["strategy"]).split())
    assert "a wider terminal or --json shows: family, late, wasted" in narrow
    assert "wider" not in whole
    assert "bound: all-resident + CPU" in narrow
    assert "the CPU still takes some where the GPU alone would be longer" in whole
    assert "\x1b" not in whole
    assert "family" not in row(narrow, "strategy")
    assert {"family", "late", "wasted"} <= set(row(whole, "strategy").split())


def test_simulate(replay: list[str]) -> None:
    asked = ["simulate", *replay, "--policy", "static-frequency"]
    found = document_of(piped(*asked, "--json")[0])["row"]
    assert f"{found['tokens_per_s']:.1f} tokens/s, {1e3 * found['step_s']:.2f} ms a step" in screen(80, *asked)


def test_solve() -> None:
    """Every strategy in one row of eight cells, at 80 columns as through a pipe."""
    names = ("exact", "ratio-freetoken", "threshold-spac")
    asked = ["solve", "--random", "3", "--solvers", ",".join(names)]
    for text in (screen(80, *asked), piped(*asked)[0]):
        for name in names:
            cells = row(text, name).split()
            assert len(cells) == 8
            assert all(re.fullmatch(r"[\d,]+(\.\d+)?%?", cell) for cell in cells[1:])


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_profiles_list_names_everything(columns: int) -> None:
    found = document_of(piped("profiles", "list", "--json")[0])
    shown = screen(columns, "profiles", "list")
    for kind in ("machines", "models"):
        for item in found[kind]:
            assert row(shown, item["name"])


def test_profiles_show_and_diff() -> None:
    """The figures of the file, each whole; of a difference both sides."""
    shown = screen(80, "profiles", "show", MACHINE)
    assert "205 GB/s" in row(shown, "gpu.read_bytes_per_s")
    assert "8 GiB" in row(shown, "gpu.capacity_bytes")
    assert "2.53 MiB" in screen(80, "profiles", "show", "qwen3-30b-a3b")
    cells = row(screen(80, "profiles", "diff", MACHINE, "rtx-3090", code=1), "gpu.capacity_bytes")
    assert re.search(r"8 GiB\s+24 GiB\s+3.00", cells)


def test_doctor(tmp_path: Path) -> None:
    """Names, marks and the longest finding, of which a pipe has the whole line."""
    items = document_of(piped("doctor", "--json")[0])["items"]
    narrow, whole = screen(80, "doctor"), piped("doctor")[0]
    for item in items:
        if item["name"] == "host memory":  # what is free changes from call to call
            continue
        assert item["found"] in whole
        assert item["name"] in narrow
        for word in item["found"].split():
            assert word in narrow


def test_trace_info(trace: Path) -> None:
    """A file whose name looks like markup is shown by its name."""
    odd = trace.with_name("[red]x.npz")
    odd.write_bytes(trace.read_bytes())
    shown = screen(80, "trace", "info", str(odd))
    assert shown.startswith("[red]x.npz: ")
    assert len(row(shown, "mean").split()) == 6
    assert len(row(piped("trace", "info", str(odd))[0], "29").split()) == 6
