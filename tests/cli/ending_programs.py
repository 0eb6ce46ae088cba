"""Programs that print a line when they want to be asked to end, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def ends(program: str, sent: signal.Signals, tmp_path: Path) -> tuple[int, str]:
    """Exit code and standard error of `program`, which prints a line when it wants the signal."""
    return says(program, sent, tmp_path)[::2]


def says(program: str, sent: signal.Signals, tmp_path: Path) -> tuple[int, str, str]:
    """Exit code, what follows on standard output, and standard error."""
    environment = {**os.environ, "HETSCHED_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}
    argv = [sys.executable, "-c", program]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.send_signal(sent)
        out, err = process.communicate()
    return process.returncode, out, err


def of_verb(verb: str) -> str:
    """The program in which a command does this instead of its work."""
    return f"""
import os, signal, sys, time
from hetsched import cli
from hetsched.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)
{verb}
cli.preflight = verb
sys.argv = ["hetsched", "profiles", "list"]
main()
"""


IN_A_CALLBACK = of_verb("""
import ctypes

def callback():
    print("now")
    time.sleep(600)

def verb(args):
    ctypes.CFUNCTYPE(None)(callback)()
    time.sleep(600)
""")

SLEEPING = of_verb("""
def verb(args):
    print("now")
    time.sleep(600)
""")

WHILE_IMPORTING = """
import builtins, signal, sys, time
from hetsched.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)
plain = builtins.__import__

def slow(name, *others):
    if name == "hetsched.cli":
        print("now")
        time.sleep(600)
    return plain(name, *others)

builtins.__import__ = slow
main()
"""

WRITING = """
import signal, sys, time
from pathlib import Path
from hetsched.traces import archive, synth
from hetsched.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)

def slow(*args):
    print("now")
    time.sleep(600)

archive._write_member = slow
sys.argv = ["hetsched", "trace", "synth", "--layers", "2", "--experts", "8", "--top-k", "2", "--tokens", "40"]
sys.argv += ["--sequences", "4", "--out", "OUT"]
main()
"""

SWALLOWED = of_verb("""
from hetsched.interruptible import interruptible

def verb(args):
    try:
        print("now")
        time.sleep(600)
    except BaseException as error:
        LOSE
""")
AS_AN_IMPORT_ERROR = SWALLOWED.replace("LOSE", "raise ImportError('initialisation failed') from error")
BY_A_SOLVER = SWALLOWED.replace("LOSE", "interruptible(lambda: time.sleep(600), lambda: None)")

TAKEN_OVER = of_verb("""
import llvmlite.binding as llvm

detach = llvm.ModuleRef.detach

def late(module):
    llvm.ModuleRef.detach = detach
    print("now")
    time.sleep(600)

def verb(args):
    one, other = llvm.parse_assembly("@a = global i32 1"), llvm.parse_assembly("@b = global i32 1")
    llvm.ModuleRef.detach = late
    one.link_in(other)
""")

IMPORTING = of_verb("""
def verb(args):
    sys.path.append("FOLDER")
    import slow_module
    print("whole")
    time.sleep(600)
""")

AT_THE_END = """
import os, signal, sys
from hetsched import __main__ as program, cli
signal.signal(signal.SIGINT, signal.default_int_handler)
stop = program._stop_listening

def stop_late():
    os.kill(os.getpid(), signal.SENT)
    stop()

program._stop_listening = stop_late
cli.preflight = lambda args: print("now")
sys.argv = ["hetsched", "completion", "bash"]
program.main()
"""

CLEANING_UP = of_verb("""
def verb(args):
    try:
        print("now")
        time.sleep(600)
    finally:
        os.kill(os.getpid(), signal.SENT)
        time.sleep(0.01)
        print("in order")
""")
