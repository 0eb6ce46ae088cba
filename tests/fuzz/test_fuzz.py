"""Some hundred bad inputs, the same in every run; `python -m tests.fuzz --cases 20000` tries more."""

from __future__ import annotations

import json
import subprocess
import sys

CASES = 300


def test_no_bad_input_breaks_the_promise() -> None:
    """In a process that has not started threads, which a fork would leave in an odd state."""
    command = [sys.executable, "-m", "tests.fuzz", "--cases", str(CASES), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.stdout, done.stderr[-2000:]
    broken = json.loads(done.stdout)
    assert not broken, "\n".join(f"{words}: {done}: {verdict}" for _, words, done, verdict in broken)
    assert done.returncode == 0


def test_good_files_are_read() -> None:
    """What is damaged is good before: each command works."""
    command = [sys.executable, "-m", "tests.fuzz", "--undamaged"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
