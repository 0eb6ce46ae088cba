"""Logs of a small run: simulated, and of a tiny model on an emulated machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hetsched.cli import main
from tests.replay.compare_made import MACHINE, model_file, trace_file

SCHEMAS = Path(__file__).parents[2] / "hetsched" / "schemas"


def simulated(folder: Path, *more: str, name: str = "run.jsonl") -> Path:
    """A log of `hetsched simulate`, reproducible."""
    log = folder / name
    files = ["--trace", str(trace_file(folder)), "--model", str(model_file(folder)), "--hardware", MACHINE]
    charged = ["--decision", "30e-6", "--host", "1e-4", "--fit-sequences", "0", "--bound-windows", "0"]
    assert main(["simulate", *files, *charged, "--gpu-fraction", "0.4", "--log", str(log), "--json", *more]) == 0
    return log


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / name).read_text())
