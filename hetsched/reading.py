"""Files that users name as input: regular ones of a bounded size, so that no read can hang or fill the memory."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import InputError

TEXT_BYTES = 16 << 20  # of a text read whole: prompts, config.json, an index of shards
JSON_DEPTH = 64  # objects and lists inside one another
_SAID = 300  # characters of what a library said
HEAD_BYTES = 4096  # of a file, in which its kind shows
ZIP, BINARY = "a zip archive, as .npz and .pt files are", "a binary file"
_KINDS = (  # first bytes, and whose they are
    (rb"PK\x03\x04", ZIP),
    (rb"GGUF[\x01-\x09]\0\0\0", "a GGUF file"),
    (rb".{7}\0\{\s*\"", "a safetensors file"),
    (rb"\x93NUMPY", "a .npy array"),
    (rb"\x1f\x8b", "compressed by gzip"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (rb"\x89PNG|\xff\xd8\xff", "a picture"),
    (rb"%PDF-", "a PDF"),
    (rb"PAR1", "a Parquet file"),
    (rb"\x80[\x02-\x05]", "a pickle"),
    (rb"\xff\xfe|\xfe\xff", "text in UTF-16"),
    (rb"\s*<[!?a-zA-Z]", "HTML or XML"),
    (rb"\s*[\[{]", "JSON"),
    (rb"(\s*#[^\n]*\n)*(---\s*\n)?\s*[A-Za-z_][\w-]*:(\s|$)", "YAML"),
    (rb".*\0", BINARY),
)


@contextmanager
def refusing(text: str, fix: str) -> Iterator[None]:
    """Whatever a library raises inside about a file that it reads, as InputError: the text, what it said, the fix.

    Libraries check what they know of, and do with the rest what its type lets them: errors of any class. A package that
    is not installed is another matter, and so is what was refused already.
    """
    try:
        yield
    except (InputError, ModuleNotFoundError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of a library in Rust
            raise
        raise InputError(f"{text}: {_said(error)}; {fix}") from error


def _said(error: BaseException) -> str:
    """An error's text on one line, with its class where the text alone says little."""
    text = " ".join(str(error).split())
    name = "" if isinstance(error, (OSError, ValueError)) and text else f"{type(error).__name__}: "
    return f"{name}{text[:_SAID]}".removesuffix(": ").rstrip(".")


def kind_of(head: bytes) -> str:
    """What the first HEAD_BYTES of a file say that it is, to put after "is"; "" where they do not."""
    return next((kind for first, kind in _KINDS if re.match(first, head, re.DOTALL)), "" if head else "empty")


def open_regular(path: str | Path, what: str, limit_bytes: int | None = None) -> IO[bytes]:
    """A regular file, open for reading. `what`: what it ought to be, for messages: "a YAML file".

    Raises InputError for one that is not there, is a folder, device, pipe or socket, or has more than `limit_bytes`.
    """
    try:
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115, the caller closes it
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _unreadable(path, getattr(error, "strerror", None) or error, what) from error
    try:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise _unreadable(path, f"it is {_kind(found.st_mode)}, not a regular file", what)
        if limit_bytes is not None and found.st_size > limit_bytes:
            raise _too_large(path, limit_bytes, what)
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: str | Path, what: str, limit_bytes: int = TEXT_BYTES) -> bytes:
    """All of a regular file. Raises InputError as open_regular() does."""
    with open_regular(path, what, limit_bytes) as file:
        try:
            data = file.read(limit_bytes + 1)
        except OSError as error:
            raise _unreadable(path, error.strerror, what) from error
    if len(data) > limit_bytes:  # files of /proc say that they are empty
        raise _too_large(path, limit_bytes, what)
    return data


def read_text_file(path: str | Path, what: str, limit_bytes: int = TEXT_BYTES) -> str:
    """All of a UTF-8 text file. Raises InputError as open_regular() does, and for what is no UTF-8."""
    data = read_bytes(path, what, limit_bytes)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if kind := kind_of(data[:HEAD_BYTES]):
            raise InputError(f"{path} is {kind}, not UTF-8 text; give {what}") from error
        raise InputError(f"{path}: not UTF-8 text: {error}; give {what}") from error
    if "\0" in text[:HEAD_BYTES]:  # what happens to be UTF-8 nevertheless
        raise InputError(f"{path} is {kind_of(data[:HEAD_BYTES])}, no text; give {what}")
    return text


def read_json(path: str | Path, what: str, fix: str) -> Any:
    """The value in a regular JSON file. Raises InputError as read_text_file() does, and, with the fix, for no JSON."""
    text = read_text_file(path, what)
    try:
        return parse_json(text)
    except ValueError as error:
        kind = kind_of(text[:HEAD_BYTES].encode())
        reason = f"no JSON: {error}" if kind in ("", "JSON") else f"{kind}, no JSON"
        raise InputError(f"{path} is {reason}; {fix}") from error


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for any other text, deep nesting, numbers of thousands of digits."""
    too_deep = f"it is nested more than {JSON_DEPTH} deep"
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(too_deep) from None
    level = [value]
    for _ in range(JSON_DEPTH + 1):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return value
    raise ValueError(too_deep)


def _without_waiting(path: str, flags: int) -> int:
    """A pipe without a writer would otherwise be waited for; regular files do not know the difference."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _unreadable(path: str | Path, reason: object, what: str) -> InputError:
    return InputError(f"cannot read {path}: {reason}; give the path of {what}")


def _too_large(path: str | Path, limit_bytes: int, what: str) -> InputError:
    return _unreadable(path, f"it has more than {limit_bytes:,} bytes", what)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe"}
    return kinds.get(stat.S_IFMT(mode), "a special file")
