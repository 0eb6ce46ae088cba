"""Every verb that prints tables, on a terminal of 80 columns and through a pipe."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.documents import document_of
from tests.report.screens import all_on_terminal, all_piped, small_trace

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
MACHINE = "rtx-4060-laptop-8gb"
SOLVERS = ("exact", "ratio-freetoken", "threshold-spac")


class Told(NamedTuple):
    """What one command line has written: on a terminal of 80 columns, through a pipe, and with --json."""

    narrow: str
    whole: str
    document: dict[str, Any]


def odd_name(folder: Path) -> Path:
    """A trace whose name looks like markup."""
    return small_trace(folder).rename(folder / "[red]x.npz")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """By verb; all verbs in one process for each way to be written."""
    trace = str(odd_name(tmp_path_factory.mktemp("traces")))
    replay = ["--trace", trace, "--model", "demo", "--hardware", MACHINE, "--decision", "2e-5", "--bound-windows", "1"]
    asked = {
        "compare": ["compare", *replay, "--strategies", "belady,static-frequency,moe-spac-fixed"],
        "simulate": ["simulate", *replay, "--policy", "static-frequency"],
        "solve": ["solve", "--random", "3", "--solvers", ",".join(SOLVERS)],
        "profiles": ["profiles", "list"],
        "doctor": ["doctor"],
        "trace": ["trace", "info", trace],
    }
    piped = iter(all_piped(*asked.values(), *([*words, "--json"] for words in asked.values())))
    narrow = all_on_terminal(80, *asked.values())
    whole = [next(piped) for _ in asked]
    return {
        verb: Told(text, long, document_of(printed))
        for verb, text, long, printed in zip(asked, narrow, whole, piped, strict=True)
    }


def row(text: str, name: str) -> str:
    (line,) = [line for line in text.splitlines() if re.search(rf"(^|\s){re.escape(name)}\s", line)]
    return line


def test_compare(told: dict[str, Told]) -> None:
    """A row a strategy with its whole figures; what is dropped is named, and a pipe has it."""
    narrow, whole, document = told["compare"]
    for r in document["rows"]:
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


def test_simulate(told: dict[str, Told]) -> None:
    found = told["simulate"].document["row"]
    assert f"{found['tokens_per_s']:.1f} tokens/s, {1e3 * found['step_s']:.2f} ms a step" in told["simulate"].narrow


def test_solve(told: dict[str, Told]) -> None:
    """Every strategy in one row of eight cells, at 80 columns as through a pipe."""
    for text in (told["solve"].narrow, told["solve"].whole):
        for name in SOLVERS:
            cells = row(text, name).split()
            assert len(cells) == 8
            assert all(re.fullmatch(r"[\d,]+(\.\d+)?%?", cell) for cell in cells[1:])


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_profiles_list_names_everything(told: dict[str, Told], columns: int) -> None:
    narrow, _, found = told["profiles"]
    (shown,) = [narrow] if columns == 80 else all_on_terminal(columns, ["profiles", "list"])
    for kind in ("machines", "models"):
        for item in found[kind]:
            assert row(shown, item["name"])


def test_profiles_show_and_diff() -> None:
    """The figures of the file, each whole; of a difference both sides."""
    asked = ["show", MACHINE], ["show", "qwen3-30b-a3b"], ["diff", MACHINE, "rtx-3090"]
    machine, model, difference = all_on_terminal(80, *(["profiles", *words] for words in asked), codes=(0, 0, 1))
    assert "205 GB/s" in row(machine, "gpu.read_bytes_per_s")
    assert "8 GiB" in row(machine, "gpu.capacity_bytes")
    assert "2.53 MiB" in model
    assert re.search(r"8 GiB\s+24 GiB\s+3.00", row(difference, "gpu.capacity_bytes"))


def test_doctor(told: dict[str, Told]) -> None:
    """Names, marks and the longest finding, of which a pipe has the whole line."""
    narrow, whole, document = told["doctor"]
    for item in document["items"]:
        if item["name"] == "host memory":  # what is free changes from call to call
            continue
        assert item["found"] in whole
        assert item["name"] in narrow
        for word in item["found"].split():
            assert word in narrow


def test_trace_info(told: dict[str, Told]) -> None:
    """A file whose name looks like markup is shown by its name."""
    shown = told["trace"].narrow
    assert shown.startswith("[red]x.npz: ")
    assert len(row(shown, "mean").split()) == 6
    assert len(row(told["trace"].whole, "29").split()) == 6
