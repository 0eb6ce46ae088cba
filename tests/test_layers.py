"""The shape of the code: what imports what, what importing costs, how long files are, and one name for one thing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hetsched"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "solvers").rglob("*.py")])
# Left may be imported by right, never the other way round.
ORDER = ("types", "profile", "cost", "problem", "solver", "policies", "scheduler", "engine", "integrations", "cli")
DECIDING = (
    "types",
    "problem",
    "solver",
    "solver_guard",
    "residency",
    "policy",
    "dispatch",
    "scheduler",
    "stats",
    "cost",
)
HEAVY = ("torch", "ortools", "pulp", "cupy", "transformers", "numba", "matplotlib")


def imported(path: Path) -> set[str]:
    """First part of every project module that a file imports at any level of its code."""
    inside = path.relative_to(PACKAGE).parts[:-1] if path.is_relative_to(PACKAGE) else ()
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = [*inside[: len(inside) - node.level + 1]] if node.level else []
            module = [*base, *(node.module or "").split(".")] if node.level else (node.module or "").split(".")[1:]
            top = [part for part in module if part]
            if node.level or (node.module or "").startswith("hetsched."):
                found |= {top[0]} if top else {alias.name for alias in node.names}
            elif node.module == "hetsched":
                found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_one_way(name: str) -> None:
    later = set(ORDER[ORDER.index(name) + 1 :])
    files = [*PACKAGE.glob(f"{name}.py"), *PACKAGE.glob(f"{name}/**/*.py")]
    assert files
    for path in files:
        assert not imported(path) & later, path


def test_decisions_know_no_tensor() -> None:
    """Left of the executor there is no torch and no thread."""
    folders = [*(PACKAGE / "policies").glob("*.py"), *(PACKAGE / "forecast").glob("*.py")]
    for path in [*folders, *(PACKAGE / f"{name}.py" for name in DECIDING)]:
        names = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert not names & {"torch", "threading", "os", "pathlib"}, path


@pytest.mark.parametrize("module", ["hetsched", "hetsched.scheduler", "hetsched.cli", "hetsched.demo_model"])
def test_importing_is_light(module: str) -> None:
    """None of the heavy dependencies is imported before it is needed."""
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_files_are_short() -> None:
    lengths = sorted(len(path.read_text().splitlines()) for path in SOURCES)
    assert lengths[-1] <= 500
    assert lengths[len(lengths) // 2] <= 150
