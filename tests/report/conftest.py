"""A run and a comparison that are made once, and their pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hetsched.cli import main
from hetsched.replay import compare
from hetsched.replay.read_back import comparison_from
from hetsched.report.web.compare_page import compare_page
from hetsched.report.web.run_page import run_page
from hetsched.runlog import RunLog, read_run
from hetsched.traces.trace import save_trace
from tests.replay.compare_made import MACHINE, geometry, model_file, random_trace
from tests.report.web_pages import hostile_comparison, hostile_run


@pytest.fixture(scope="session")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated run of a small model, 200 steps."""
    folder = tmp_path_factory.mktemp("run")
    log, trace, model = folder / "run.jsonl", folder / "trace.npz", model_file(folder)
    save_trace(trace, random_trace(tokens=400))
    argv = ["simulate", "--trace", trace, "--model", model, "--hardware", MACHINE, "--bound-windows", 0, "--json"]
    argv += [
        "--decision",
        0.00001,
        "--host",
        0.0001,
        "--gpu-fraction",
        0.4,
        "--strategy",
        "on-demand-lru",
        "--log",
        log,
    ]
    assert main([str(word) for word in argv]) == 0
    return log


@pytest.fixture(scope="session")
def log(run_file: Path) -> RunLog:
    """The same, read."""
    return read_run(run_file)


@pytest.fixture(scope="session")
def document() -> dict[str, Any]:
    """A comparison as `compare --json` writes it: five strategies, two shares, a bound."""
    strategies = "cpu-only,static-frequency,on-demand-lru,belady,hetsched"
    made = compare(
        random_trace(),
        geometry(),
        hardware=[MACHINE],
        gpu_fractions=[0.25, 0.5],
        strategies=strategies,
        bound_windows=1,
        decision_s=0.0,
    )
    return dict(json.loads(json.dumps(made.document())))


@pytest.fixture(scope="session")
def run_html(log: RunLog) -> str:
    """The page of the run."""
    return run_page(log).html()


@pytest.fixture(scope="session")
def hostile(log: RunLog, document: dict[str, Any]) -> list[str]:
    """Pages of a run and of a comparison all of whose texts are attacks."""
    return [run_page(hostile_run(log)).html(), compare_page(comparison_from(hostile_comparison(document))).html()]


@pytest.fixture(scope="session")
def compare_html(document: dict[str, Any]) -> str:
    """The page of the comparison."""
    return compare_page(comparison_from(document)).html()
