"""Unfinished work on a trace: a folder beside the file to be, with an owner, a journal, and arrays as raw bytes."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import remove_folder
from ..reading import open_regular, parse_json, read_text_file

if sys.platform != "win32":
    import fcntl

JOURNAL, NEW_JOURNAL, LOCK = "journal.json", "journal.json.new", "lock"
JOURNAL_BYTES = 1 << 20
READ_BYTES = 1 << 20
DIGEST = "digest"  # of all else that a journal says


class Ownership:
    """A folder of unfinished work that no other process works on, created if absent.

    `arrays`: the names of files that such a folder may hold beside the journal and the lock; it is removed at the end,
    so one with anything else in it is somebody's. The system gives it up with the process, however that ends. (On
    Windows nothing is locked.) Raises InputError where another process has it, or it is no such folder.
    """

    def __init__(self, folder: Path, arrays: Iterable[str]) -> None:
        self.folder = folder
        while True:
            require_ours(folder, arrays)
            folder.mkdir(exist_ok=True)
            self._number = _opened(folder)
            try:
                self._lock()
                if os.path.samestat(os.fstat(self._number), os.stat(folder / LOCK)):
                    return
            except FileNotFoundError:  # removed by its owner between our two looks at it
                pass
            except BaseException:
                self.release()
                raise
            self.release()

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{self.folder} is being written by another process; wait for it, or choose another --out"
            ) from None

    def release(self) -> None:
        """Let others have it; the folder stays."""
        if self._number >= 0:
            os.close(self._number)
            self._number = -1

    def remove(self) -> None:
        """Remove the folder, out of the way first, so that nobody begins new work in it meanwhile."""
        aside = self.folder.with_name(f".{self.folder.name}.{secrets.token_hex(4)}")
        try:
            os.rename(self.folder, aside)
        finally:
            remove_folder(aside)  # nobody would know it again
        self.release()


def _opened(folder: Path) -> int:
    """The lock's number. A link in its place is not followed, since that would make a file wherever it leads."""
    more = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | more, 0o644)
    except OSError as error:
        raise damaged(folder, f"its {LOCK} cannot be opened ({error.strerror})") from error


def require_ours(folder: Path, arrays: Iterable[str]) -> None:
    """Raise InputError for what is at `folder` unless it is nothing, or a folder with only what is written here."""
    try:
        names = set() if folder.is_symlink() else set(os.listdir(folder))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        names = set()
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}; choose another --out, or remove it") from error
    strange = sorted(names - {JOURNAL, NEW_JOURNAL, LOCK, *arrays})
    if strange or folder.is_symlink() or not folder.is_dir():
        what = f"a folder with {strange[0]!r:.80} in it" if strange else "no folder of its own"
        raise InputError(
            f"{folder}, where unfinished work would be, is {what}; choose another --out, or move that away"
        )


def read_journal(folder: Path) -> dict[str, Any] | None:
    """What the journal of a folder says, None where there is none yet.

    Raises InputError for one that is not, to the last figure, what write_journal() wrote.
    """
    path = folder / JOURNAL
    if not os.path.lexists(path):
        return None
    try:
        journal = parse_json(read_text_file(path, "a journal", JOURNAL_BYTES))
    except ValueError as error:  # InputError is one, too
        raise damaged(folder, f"its {JOURNAL} cannot be read ({error})") from error
    if not isinstance(journal, dict) or journal.pop(DIGEST, None) != _digest(journal):
        raise damaged(folder, f"its {JOURNAL} is not as it was written")
    return journal


def write_journal(folder: Path, journal: dict[str, Any]) -> None:
    """Replace the journal atomically, and on the disk."""
    new = folder / NEW_JOURNAL
    with new.open("w", encoding="utf-8") as out:
        json.dump({**journal, DIGEST: _digest(journal)}, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(new, folder / JOURNAL)


def _digest(journal: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(journal, sort_keys=True).encode()).hexdigest()


def require_sum(folder: Path, name: str, wanted: int, checksum: int) -> None:
    """Raise InputError unless the first `wanted` bytes of an array's file are those that were committed."""
    found, left = 0, wanted
    with open_regular(folder / name, "a trace's array") as file:
        while left and (part := file.read(min(left, READ_BYTES))):
            found, left = zlib.crc32(part, found), left - len(part)
    if left or found != checksum:
        raise damaged(folder, f"its file {name!r} does not hold what was written")


def require_bytes(folder: Path, name: str, wanted: int, *, exact: bool) -> None:
    """Raise InputError unless an array's file has the bytes that were committed; more are allowed if not `exact`."""
    try:
        found = os.stat(folder / name).st_size
    except OSError as error:
        raise damaged(folder, f"its file {name!r} is not there ({error.strerror})") from error
    if found < wanted or (exact and found != wanted):
        raise damaged(folder, f"its file {name!r} has {found:,} bytes where {wanted:,} were written")


def damaged(folder: Path, reason: str) -> InputError:
    """The error of unfinished work that cannot be gone on with."""
    return InputError(f"the unfinished work in {folder} is damaged: {reason}; delete that folder and begin anew")
