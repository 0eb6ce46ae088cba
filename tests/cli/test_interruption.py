"""Ctrl-C and requests to end: answered wherever they come, with the exit code of an interruption and nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hetsched import cli
from hetsched.dispatch.instances import random_problem
from hetsched.errors import Terminated
from hetsched.interruptible import interruptible, solve_mathopt
from hetsched.plugins import plugin

from .ending_programs import (
    AS_AN_IMPORT_ERROR,
    AT_THE_END,
    BY_A_SOLVER,
    CLEANING_UP,
    CODES,
    IMPORTING,
    IN_A_CALLBACK,
    SLEEPING,
    TAKEN_OVER,
    WHILE_IMPORTING,
    WRITING,
    ends,
    says,
)


def test_a_call_is_left_at_once() -> None:
    """Neither a call that looks at nothing nor a `stop` that does nothing keeps the caller."""
    release = threading.Event()

    def stubborn() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        release.wait()

    stopped = []
    with pytest.raises(KeyboardInterrupt):
        interruptible(stubborn, lambda: stopped.append(True))
    release.set()
    assert stopped == [True]


def test_a_call_returns_and_raises_as_it_would() -> None:
    assert interruptible(lambda: 3, lambda: None) == 3
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0, lambda: None)


def test_other_threads_call_directly() -> None:
    """Signals are for the main thread; a thread more would only cost."""
    seen: list[str] = []

    def call() -> None:
        interruptible(lambda: seen.append(threading.current_thread().name), lambda: None)

    thread = threading.Thread(target=call, name="worker")
    thread.start()
    thread.join()
    assert seen == ["worker"]


def _hard_knapsack() -> object:
    from ortools.math_opt.python import mathopt

    rng, model = np.random.default_rng(0), mathopt.Model()
    columns = [model.add_binary_variable() for _ in range(120)]
    for _ in range(60):
        weights = rng.integers(1, 100, len(columns)).tolist()
        model.add_linear_constraint(sum(w * x for w, x in zip(weights, columns, strict=True)) <= sum(weights) // 3)
    model.maximize(sum(int(w) * x for w, x in zip(rng.integers(1, 100, len(columns)), columns, strict=True)))
    return model


def test_highs_does_not_swallow_ctrl_c() -> None:
    """It does on its own: MathOpt returns as if nothing had happened."""
    import datetime

    from ortools.math_opt.python import mathopt

    model = _hard_knapsack()
    limit = mathopt.SolveParameters(time_limit=datetime.timedelta(seconds=20))
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        solve_mathopt(model, mathopt.SolverType.HIGHS, params=limit)
    timer.join()


@pytest.mark.parametrize("name", ["cp-sat", "mathopt-highs", "lp-rounding"])
def test_solvers_pass_ctrl_c_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the library is at work, which is where it would be lost."""
    solver = plugin("hetsched.solvers", name)()
    problem = random_problem(np.random.default_rng(1), 12)
    solver.solve(problem)
    start = threading.Thread.start

    def start_and_press(thread: threading.Thread) -> None:
        start(thread)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(threading.Thread, "start", start_and_press)
    with pytest.raises(KeyboardInterrupt):
        solver.solve(problem)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interrupted_verb_says_so_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: type[BaseException], code: int
) -> None:
    def interrupted(args: object) -> None:
        raise error

    monkeypatch.setattr(cli, "preflight", interrupted)
    assert cli.main(["profiles", "list"]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hetsched: interrupted; nothing is half-written\n")


@pytest.mark.parametrize("sent", CODES)
@pytest.mark.parametrize(
    "program",
    [SLEEPING, IN_A_CALLBACK, AS_AN_IMPORT_ERROR, BY_A_SOLVER, TAKEN_OVER],
    ids=["sleeping", "in a callback from C", "as an ImportError", "swallowed before a solver", "while LLVM links"],
)
def test_the_processends(program: str, sent: signal.Signals, tmp_path: Path) -> None:
    """Python ignores what is raised in a callback from C, and libraries make something else of it; we remember.

    LLVM has freed a module by then that its caller would free again.
    """
    assert ends(program, sent, tmp_path) == (CODES[sent], "hetsched: interrupted; nothing is half-written\n")


@pytest.mark.parametrize("sent", CODES)
def test_the_process_ends_while_it_is_starting(sent: signal.Signals, tmp_path: Path) -> None:
    found = ends(WHILE_IMPORTING, sent, tmp_path)
    assert found == (CODES[sent], "hetsched: interrupted before anything was done\n")


@pytest.mark.parametrize("sent", CODES)
@pytest.mark.parametrize(
    ("seconds", "out", "said"),
    [(0.2, "whole\n", "interrupted; nothing is half-written"), (600, "", "interrupted while it was starting")],
)
def test_an_import_is_not_disturbed(sent: signal.Signals, seconds: float, out: str, said: str, tmp_path: Path) -> None:
    """C++ that is being imported may end the process by abort(). One that takes long is left with the process."""
    (tmp_path / "slow_module.py").write_text(f"import time\nprint('now')\ntime.sleep({seconds})\n")
    found = says(IMPORTING.replace("FOLDER", str(tmp_path)), sent, tmp_path)
    assert found == (CODES[sent], out, f"hetsched: {said}\n")


@pytest.mark.parametrize("sent", CODES)
def test_a_command_that_has_ended_is_not_interrupted(sent: signal.Signals, tmp_path: Path) -> None:
    program = AT_THE_END.replace("SENT", sent.name)
    environment = {**os.environ, "HETSCHED_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_signals_are_heard_before_much_is_imported() -> None:
    """Until then Python answers Ctrl-C, with its own traceback."""
    program = "import sys; before = set(sys.modules); import hetsched.__main__; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"typing", "re", "threading", "difflib", "argparse", "pathlib", "numpy", "hetsched.cli"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize("sent", CODES)
def test_a_second_request_does_not_disturb_the_cleaning_up(sent: signal.Signals, tmp_path: Path) -> None:
    found = says(CLEANING_UP.replace("SENT", sent.name), sent, tmp_path)
    assert found == (CODES[sent], "in order\n", "hetsched: interrupted; nothing is half-written\n")


@pytest.mark.parametrize("sent", CODES)
def test_nothing_is_left_behind(sent: signal.Signals, tmp_path: Path) -> None:
    """A trace that is being written when the request comes: neither it nor a temporary file stays."""
    folder = tmp_path / "out"
    folder.mkdir()
    code, err = ends(WRITING.replace("OUT", str(folder / "x.npz")), sent, tmp_path)
    assert (code, err) == (CODES[sent], "hetsched: interrupted; nothing is half-written\n")
    assert not list(folder.iterdir())


def _raising(error: type[BaseException]) -> Callable[..., object]:
    def raising(*_: object, **__: object) -> object:
        raise error

    return raising


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated])
def test_an_import_that_is_interrupted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    from hetsched.traces import from_rows
    from hetsched.traces.rows import row_file

    log = tmp_path / "log.csv"
    log.write_text("layer,token,experts\n0,0,1;2\n")
    monkeypatch.setattr(from_rows, "write_arrays", _raising(error))
    with pytest.raises(error):
        from_rows.import_rows(row_file(log), 4, tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == [log]
