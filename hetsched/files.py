"""Files that are written: places checked before any work is done, and contents that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import InputError

MOST_NAME_BYTES = 200  # of a file's name: 255 are allowed, and unfinished work beside it has a longer one


def user_path(text: str | Path) -> Path:
    """The path as a user writes it, ~ and ~name being home folders.

    Raises InputError for nobody's, and for what no file can be called: after this, asking whether it exists is safe.
    """
    try:
        path = Path(text).expanduser()
        os.lstat(path)
    except RuntimeError as error:
        raise InputError(f"{str(text)[:80]!r} begins with the home folder of nobody here; write it out") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(
                f"{str(text)[:80]!r}... is longer than names of files are; choose a shorter one"
            ) from error
    except (TypeError, ValueError) as error:  # a NUL; what is no text
        raise InputError(f"{str(text)[:80]!r} is no path: {error}; choose another") from error
    return path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new file beside `path` to write to; it takes that name when the block ends well and is gone when it does not.

    A reader sees the old file or the whole new one. Raises InputError for what is no place of a regular file.
    """
    path = Path(path)
    check_file(path)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}; choose another place") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `parent` for the time of the block; `prefix` of its name.

    tempfile's can be interrupted when it has made the folder and told nobody its name.
    """
    folder = parent / f"{prefix}{secrets.token_hex(8)}"
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """All that can be removed of it, if it is there, and also where that is interrupted."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_file(path: Path) -> None:
    """Raise InputError unless a regular file can be made at `path`, or replaced there. Nothing is left behind."""
    mode = _mode_of(path)
    if len(os.fsencode(path.name)) > MOST_NAME_BYTES:
        raise InputError(f"{path.name[:40]}...: a name of more than {MOST_NAME_BYTES} bytes; choose a shorter one")
    if mode is not None and not stat.S_ISREG(mode):
        raise InputError(f"{path} is {_kind(path, mode)}, which would be replaced; name a regular file or a new one")
    if mode is not None and not os.access(path, os.W_OK):
        raise InputError(f"{path} is read-only; choose another place, or make it writable")
    _check_writable(path.parent, path)


def check_folder(path: Path, *, empty: bool = False) -> None:
    """Raise InputError unless `path` is a folder that can be written in, or can be made one; `empty`: and has nothing.

    Nothing is left behind.
    """
    mode = _mode_of(path)
    if mode is not None and not path.is_dir():
        raise InputError(f"{path} is no folder; name a folder or a new one")
    try:
        if empty and mode is not None and any(path.iterdir()):
            raise InputError(f"{path} is not empty; choose a new folder, or empty it")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; choose another place") from error
    there = path
    while not there.is_dir() and there != there.parent:
        if there.name == "..":
            raise InputError(f"{path} leads through {there.parent}, which is not there; choose another place")
        there = there.parent
    _check_writable(there, path)


def make_folder(path: Path) -> None:
    """The folder, made with its parents if absent. Raises InputError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made a folder: {error.strerror}; choose another place") from error


def check_distinct(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise InputError for an output that is an input, lies in an input folder, or is named twice."""
    inputs, seen = list(inputs), list[Path]()
    for output in outputs:
        if any(_same(output, other) for other in seen):
            raise InputError(f"{output} is named twice as an output; give each a name of its own")
        for source in inputs:
            if _same(output, source) or (source.is_dir() and output.exists() and _is_inside(output, source)):
                raise InputError(f"{output} is an input, and would be overwritten; choose another output")
        seen.append(output)


def _mode_of(path: Path) -> int | None:
    """The mode of what is at a path, links not followed; None where nothing is. Raises InputError for no possible path.

    A link to nothing is something: writing would go where it points.
    """
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{str(path)[:80]!r} is no usable path: {reason}; choose another") from error


def _kind(path: Path, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return f"a link to {os.readlink(path)}"
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")


def _check_writable(folder: Path, wanted: Path) -> None:
    """Try it: permissions do not tell for root, or on /proc."""
    if not folder.is_dir():
        raise InputError(f"{wanted}: cannot be written: there is no folder {folder}; make it, or choose another place")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{wanted}: cannot be written: {error.strerror}; choose another place") from error


def _same(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        if one.exists() and other.exists():
            return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)  # resolve() raises for a loop of links


def _is_inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
