"""What a user sees: the command in a process of its own, on a pseudo-terminal of a given width or piped."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

COMMAND = ("-m", "hetsched")
# Command lines one after another, each as if alone; a process of its own for each would import all anew.
SEVERAL = """
import json, sys
from hetsched.cli import main
for words in json.loads(sys.argv[1]):
    code = main(words)
    print(f"\\x1e{code}\\x1e", end="", flush=True)
"""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def environment(**more: str) -> dict[str, str]:
    """This one without what sizes or colours a terminal."""
    left_out = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING", "PYTHONUTF8"}
    return {**{k: v for k, v in os.environ.items() if k not in left_out}, "TERM": "xterm-256color", **more}


def piped(*arguments: str, code: int = 0, **more: str) -> tuple[str, str]:
    """Standard output and standard error through pipes."""
    ran = subprocess.run(
        [sys.executable, *COMMAND, *arguments], capture_output=True, env=environment(**more), timeout=200, check=False
    )
    assert ran.returncode == code, ran.stderr.decode()
    return ran.stdout.decode(), ran.stderr.decode()


def all_piped(*asked: Sequence[str], **more: str) -> list[str]:
    """Standard output through a pipe, of each command line; all end well, in one process."""
    several = ["-c", SEVERAL, json.dumps(asked)]
    ran = subprocess.run([sys.executable, *several], capture_output=True, env=environment(**more), timeout=500)
    return _each(ran.stdout.decode(), [0] * len(asked), ran.stderr.decode())


def all_on_terminal(columns: int, *asked: Sequence[str], codes: Sequence[int] | None = None) -> list[str]:
    """As `screen`, of each command line, in one process and on one terminal."""
    shown = on_terminal(columns, "-c", SEVERAL, json.dumps(asked))
    return [_whole(text, columns) for text in _each(shown, codes or [0] * len(asked), shown)]


def _each(written: str, codes: Sequence[int], said: str) -> list[str]:
    parts = written.split("\x1e")
    assert parts[1::2] == [str(code) for code in codes], said
    return parts[:-1:2]


def on_terminal(columns: int, *python: str, errors: bool = False, code: int = 0) -> str:
    """What Python shows on a terminal, with its escape sequences; with `errors` standard error too."""
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *python],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs if errors else subprocess.DEVNULL,
        env=environment(),
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux: the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(timeout=60) == code, shown.decode()
    return shown.decode().replace("\r\n", "\n")


def screen(columns: int, *arguments: str, code: int = 0) -> str:
    """Standard output of the command on a terminal, as text; no line is longer than the terminal, none is cut."""
    return _whole(on_terminal(columns, *COMMAND, *arguments, code=code), columns)


def _whole(written: str, columns: int) -> str:
    shown = ESCAPES.sub("", written)
    assert max(len(line) for line in shown.splitlines()) <= columns
    assert "…" not in shown
    return shown


def small_trace(folder: Path) -> Path:
    """A synthetic trace of the demo model's shape."""
    from hetsched.traces.synth import SynthParams, synthesise

    path = folder / "small.npz"
    shape = {"layers": 30, "experts": 16, "top_k": 4, "tokens": 60, "sequences": 4}
    synthesise(SynthParams.uniform(**shape, skew=1.1, locality=0.3, drift=0.3), 0, path)
    return path
