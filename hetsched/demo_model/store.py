"""Where the checkpoint lies, and how it gets there in one piece."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from hetsched.errors import InputError
from hetsched.files import temporary_folder
from hetsched.machine.sizes import show_bytes

MOST_BYTES = 300 << 20  # of a checkpoint, in 16 bits
STALE_AFTER_S = 600.0  # a live build holds its temporary folder for the seconds of saving, no longer


def require_free(out: Path) -> None:
    """Check that `out` can be written: raises `InputError` for a file, a folder that is not empty, a full disk."""
    if out.is_file():
        raise InputError(f"{out} is a file, and the demo model needs a folder: name another folder")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} exists and is not empty: name another folder, or remove this one first")
    there = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < MOST_BYTES:
        raise InputError(
            f"{there} has {show_bytes(free)} free, and the demo model takes up to {show_bytes(MOST_BYTES)}: make room, "
            "or name a folder elsewhere"
        )


def publish(out: Path, write: Callable[[Path], None]) -> bool:
    """Whether the folder that `write` filled became `out`; False where another process got there first.

    `write` gets a temporary sibling of `out`, which is renamed to `out` when it returns. If it raises, nothing
    stays.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(out)
    with temporary_folder(out.parent, _prefix(out)) as part:
        write(part)
        # What safetensors and we make private other users of a shared cache should read, too.
        part.chmod(0o755)
        for file in part.iterdir():
            file.chmod(0o644)
        return _rename(part, out)


def remove_stale(out: Path) -> None:
    """Remove the temporary folders that killed builds of `out` left behind."""
    for part in out.parent.glob(f"{_prefix(out)}*"):
        try:
            stale = time.time() - part.stat().st_mtime > STALE_AFTER_S
        except FileNotFoundError:  # another process cleaned up meanwhile
            continue
        if stale:
            shutil.rmtree(part, ignore_errors=True)


def _prefix(out: Path) -> str:
    return f".{out.name}.part-"


def _rename(part: Path, out: Path) -> bool:
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()  # Windows renames onto nothing, not even onto an empty folder
    try:
        os.rename(part, out)
    except OSError:
        if out.is_dir():
            return False
        raise
    return True
