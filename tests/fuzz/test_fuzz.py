"""Some hundred bad inputs, the same in every run; `python -m tests.fuzz --cases 20000` tries more."""

from __future__ import annotations

import json
import subprocess
import sys

CASES = 300


def test_no_bad_input_breaks_the_promise() -> None:
    """In a process of their own: a fork leaves threads in an odd state. Good files are read first, by every command."""
    command = [sys.executable, "-m", "tests.fuzz", "--cases", str(CASES), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.stdout.startswith("["), done.stdout + done.stderr[-2000:]
    broken = json.loads(done.stdout)
    assert not broken, "\n".join(f"{words}: {done}: {verdict}" for _, words, done, verdict in broken)
    assert done.returncode == 0
