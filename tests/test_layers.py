"""The shape of the code: what imports what, what importing costs, how long files are, and one name for one thing."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hetsched"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "solvers").rglob("*.py")])
# Rooms: a folder, or a file at the root. Each may import those before it, and none after it.
ROOMS = [
    "errors",
    "types",
    "jit",
    "cache",
    "files",
    "reading",
    "plugins",
    "faults",
    "signals",
    "interruptible",
    "formats",
    "geometry",
    "machine",
    "memory",
    "cost",
    "speculation",
    "estimate",
    "traces",
    "steering",
    "dispatch",
    "board",
    "residency",
    "stats",
    "recalibration",
    "forecast",
    "predictor",
    "policy",
    "policies",
    "deciders",
    "shadow",
    "scheduler",
    "resizing",
    "learned",
    "runlog",
    "explain",
    "report",
    "bound",
    "replay",
    "evaluate",
    "planning",
    "packed",
    "tiers",
    "accelerators",
    "cpu_kernels",
    "engine",
    "measure",
    "integrations",
    "serving",
    "loading",
    "demo_model",
    "testing",
    "bench",
    "schemas",
    "cli",
    "__main__",
]
# Rooms that decide: numbers and plain Python, no tensor, no thread, no clock but the scheduler's own, no file.
DECIDING = (
    "types",
    "speculation",
    "dispatch",
    "board",
    "residency",
    "stats",
    "recalibration",
    "forecast",
    "policy",
    "policies",
    "deciders",
    "shadow",
    "scheduler",
    "resizing",
)
HEAVY = ("torch", "ortools", "pulp", "cupy", "transformers", "numba", "matplotlib")


def modules() -> dict[str, Path]:
    """Every module of the project by its full name."""
    found = {}
    for path in SOURCES:
        parts = path.relative_to(ROOT / "solvers" if "solvers" in path.parts else ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """All of these and of those within them, but for what is there for types alone."""
    for found in body:
        if isinstance(found, ast.If) and ast.unparse(found.test) == "TYPE_CHECKING":
            continue
        yield found
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from statements(getattr(found, part, []))


def imports(name: str) -> set[str]:
    """Modules of the project that one imports at any level of its code: `import x`, `from x import y`, relative ones.

    What is imported for types alone costs nothing and ties nothing together.
    """
    path, found = MODULES[name], set[str]()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for statement in statements(ast.parse(path.read_text()).body):
        if isinstance(statement, ast.Import):
            found.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - statement.level + 1] if statement.level else []
            base = ".".join([*above, *([statement.module] if statement.module else [])])
            found.update(full if (full := f"{base}.{alias.name}") in MODULES else base for alias in statement.names)
    return (found & set(MODULES)) - {name}


@functools.cache
def graph() -> dict[str, set[str]]:
    """What every module imports; made by who asks first, not by who only collects these tests."""
    return {name: imports(name) for name in MODULES}


def room(name: str) -> str:
    """The room of a module; the package itself, whose exports are lazy, is "hetsched"."""
    parts = name.split(".")
    return parts[1] if parts[0] == "hetsched" and len(parts) > 1 else parts[0]


def test_every_room_has_its_place() -> None:
    assert {room(name) for name in MODULES} == {*ROOMS, "hetsched", "hetsched_solvers"}


@pytest.mark.parametrize("name", ROOMS)
def test_imports_point_one_way(name: str) -> None:
    allowed = {*ROOMS[: ROOMS.index(name) + 1], "hetsched"}
    files = [module for module in MODULES if room(module) == name]
    assert files
    for module in files:
        assert {room(other) for other in graph()[module]} <= allowed, module


def test_solvers_see_what_they_decide_and_nothing_else() -> None:
    """But for the study of placement, which is a program of its own."""
    solvers = {name for name in MODULES if room(name) == "hetsched_solvers"} - {"hetsched_solvers.placement.study"}
    seen = {room(other) for name in solvers for other in graph()[name]}
    assert seen == {"errors", "types", "jit", "interruptible", "dispatch", "hetsched_solvers"}


def test_no_module_imports_itself_in_a_circle() -> None:
    """Modules are taken away while one of them imports none of the others; what is left are circles."""
    left = {name: set(others) for name, others in graph().items()}
    while free := {name for name, others in left.items() if not others & set(left)}:
        left = {name: others for name, others in left.items() if name not in free}
    assert not left


def test_the_graph_sees_imports_of_every_form() -> None:
    assert "hetsched.machine.gallery" in graph()["hetsched.replay.study"]  # from ..machine import gallery
    assert "hetsched.dispatch.judge" in graph()["hetsched.dispatch.problem"]  # in a function
    assert "hetsched.replay.result" not in graph()["hetsched.report.compare_view"]  # for types alone


@pytest.mark.parametrize("name", DECIDING)
def test_decisions_know_no_tensor(name: str) -> None:
    for module in (module for module in MODULES if room(module) == name):
        tree = ast.parse(MODULES[module].read_text())
        named = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
        assert not {part.partition(".")[0] for part in named} & {"torch", "threading", "os", "pathlib"}, module


def test_importing_is_light() -> None:
    """None of the heavy dependencies is imported before it is needed, by any of these or by all together."""
    light = "hetsched, hetsched.scheduler, hetsched.cli, hetsched.demo_model"
    code = f"import sys, {light}; print([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_files_are_short() -> None:
    lengths = sorted(len(path.read_text().splitlines()) for path in SOURCES)
    assert lengths[-1] <= 500
    assert lengths[len(lengths) // 2] <= 150
