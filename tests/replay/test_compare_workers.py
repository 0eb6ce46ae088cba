"""Where cells run changes nothing: here, in processes, on a cluster; and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from hetsched.errors import InputError, MissingDependencyError
from hetsched.policies.static import CpuOnly
from hetsched.replay import Comparison, compare
from tests.replay.compare_made import MACHINE, Dies, Raises, Seer, geometry, model_file, random_trace, trace_file

STRATEGIES = ["cpu-only", "static-frequency", "hetsched", Seer, Raises]


def made(trace=None, strategies=STRATEGIES, **settings) -> Comparison:
    usual = {"decision_s": 2e-5, "bound_windows": 1, "max_tokens": 40, "gpu_fractions": [0.25, 0.5]}
    source = random_trace() if trace is None else trace
    return compare(source, geometry(), hardware=[MACHINE], strategies=strategies, **{**usual, **settings})


def document(compared: Comparison) -> str:
    return json.dumps(compared.document(), sort_keys=True)


def test_the_same_again():
    """A constant charge leaves nothing to chance."""
    assert document(made()) == document(made())


@pytest.mark.parametrize("as_file", [False, True])
def test_processes_change_nothing(as_file, tmp_path):
    """Two workers give the document of one, rows and failures in the same order."""
    trace = trace_file(tmp_path) if as_file else None
    seen: list[float] = []
    parallel = made(trace, jobs=2, progress=lambda done, tasks: seen.append(done / tasks))
    assert document(parallel) == document(made(trace))
    assert len(parallel.failures) == 2
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_a_process_that_dies_costs_its_cells():
    """The others' rows are there, and the failure names the exit code."""
    compared = made(strategies=[Dies, "cpu-only", "static-frequency"], jobs=2, gpu_fractions=[0.5], bound_windows=0)
    assert {row.strategy for row in compared.rows} == {"cpu-only", "static-frequency"}
    assert {failure.what for failure in compared.failures} == {"dies"}
    assert all("exit code 7" in failure.why for failure in compared.failures)


def test_what_cannot_be_sent():
    class Local(CpuOnly):
        name = "local"

    with pytest.raises(InputError, match="local cannot be sent"):
        made(strategies=[Local], jobs=2)


def test_interrupt_ends_the_workers(tmp_path):
    """Ctrl-C in the middle of two cells: exit code 130, one line, no process of the group left."""
    (tmp_path / "sleepy.py").write_text(
        "import time, os\n"
        "from pathlib import Path\n"
        "from hetsched.policies.static import CpuOnly\n"
        "class Sleepy(CpuOnly):\n"
        "    name = 'sleepy'\n"
        "    def plan(self, demand, view):\n"
        f"        Path({str(tmp_path)!r}, f'began-{{os.getpid()}}').touch()\n"
        "        time.sleep(600)\n"
    )
    arguments = ["--trace", trace_file(tmp_path), "--model", model_file(tmp_path), "--hardware", MACHINE]
    arguments += ["--strategies", "sleepy:Sleepy", "--gpu-fraction", "0.1,0.2", "--jobs", "2", "--bound-windows", "0"]
    code = "import sys; from hetsched.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "compare", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    try:
        while len(list(tmp_path.glob("began-*"))) < 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate()
        assert process.returncode == 130
        assert len(errors.splitlines()) == 1
        while group_exists(process.pid):  # Python's resource tracker ends a moment after its parent; else we time out
            time.sleep(0.05)
    finally:
        if group_exists(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


class FakeRay(ModuleType):
    """Enough of Ray to run remote tasks in this process, last submitted first."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.calls: list[str] = []

    def init(self, address, **settings):
        if address != "auto":
            raise ConnectionError("nobody there")
        self.calls.append("init")

    def put(self, value):
        return value

    def remote(self, function):
        class Remote:
            def remote(self, *args):
                return (function, args, object())

        return Remote()

    def wait(self, references, num_returns):
        return references[-1:], references[:-1]

    def get(self, reference):
        return reference[0](*reference[1])

    def shutdown(self):
        self.calls.append("shutdown")


def test_a_cluster_changes_nothing(monkeypatch, tmp_path: Path):
    """The same tasks through Ray's calls, the trace sent along: the same document; the connection is closed."""
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    path = trace_file(tmp_path)
    assert document(made(path, ray="auto")) == document(made(path))
    assert ray.calls == ["init", "shutdown"]
    with pytest.raises(InputError, match=r"no Ray cluster at '10\.0\.0\.1:6379'"):
        made(ray="10.0.0.1:6379")


def test_a_node_that_is_lost_costs_its_tasks(monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    found = ray.get

    def lose_the_last(reference):
        if reference[1][1] is last[0]:
            raise RuntimeError("node died")
        return found(reference)

    last: list[bytes] = []
    plain_wait = ray.wait

    def note_the_first(references, num_returns):
        last[:] = last or [references[-1][1][1]]
        return plain_wait(references, num_returns)

    monkeypatch.setattr(ray, "get", lose_the_last)
    monkeypatch.setattr(ray, "wait", note_the_first)
    compared = made(strategies=["cpu-only", "static-frequency"], ray="auto")
    assert [(f.what, f.gpu_fraction) for f in compared.failures] == [("static-frequency", 0.5)]
    assert "node died" in compared.failures[0].why
    assert len(compared.rows) == 3


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'hetsched\[ray\]'"):
        made(ray="auto")
