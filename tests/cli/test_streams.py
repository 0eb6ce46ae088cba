"""Standard streams that are full, closed, or read by nobody: one line, and no other code than that of the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
NEEDS_FULL = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
COMMANDS = (["profiles", "list"], ["profiles", "list", "--json"], ["--version"], ["solve", "--help"])


def ran(argv: list[str], redirected: str) -> subprocess.CompletedProcess[str]:
    """`hetsched ARGV REDIRECTED`, in a shell, with standard error as text unless it is redirected."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = f'"$@" {redirected}'
    words = ["sh", "-c", command, "sh", sys.executable, "-m", "hetsched", *argv]
    return subprocess.run(words, capture_output=True, text=True, env=environment)


@NEEDS_FULL
@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_a_full_standard_output_is_said_in_a_line(argv: list[str]) -> None:
    done = ran(argv, "> /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("hetsched: standard output cannot be written to: No space left on device;")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_a_closed_standard_output_is_said_in_a_line(argv: list[str]) -> None:
    done = ran(argv, ">&-")
    assert done.returncode == 1
    assert done.stderr.startswith("hetsched: standard output cannot be written to:")
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_standard_output_is_nothing_to_a_command_that_says_nothing_there() -> None:
    done = ran(["profiles", "show", "no-such-machine"], ">&-")
    assert done.returncode == 2
    assert "unknown machine" in done.stderr


@pytest.mark.parametrize("redirected", ["2>&-", ">&- 2>&- <&-", pytest.param("2> /dev/full", marks=NEEDS_FULL)])
def test_without_standard_error_the_code_says_it(redirected: str) -> None:
    done = ran(["profiles", "show", "no-such-machine"], redirected)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.parametrize("argv", COMMANDS[:2], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(argv: list[str], tmp_path: Path) -> None:
    """The pipe is closed before anything is written to it."""
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "hetsched", *argv]
    with os.fdopen(write) as closed:
        done = subprocess.run(words, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
