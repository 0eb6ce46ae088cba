"""Traces that are written while they grow: on disk, not in memory, and resumable after a crash.

Beside the file to be, `<name>.partial/` holds each array as raw bytes and a journal that says how many tokens are
committed, replaced atomically. What was appended after the last commit is lost when the process dies. One process at a
time works on a path.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..files import check_file, remove_folder
from .archive import write_arrays
from .meta import meta_array, trace_meta
from .partial import JOURNAL, Ownership, read_journal, require_bytes, require_sum, write_journal
from .routers import Routers

_DTYPES = {
    "experts": np.int16,
    "sequence": np.int32,
    "phase": np.uint8,
    "weights": np.float16,
    "step": np.int32,
    "kept": np.uint8,
    "hidden": np.float16,
}


def partial_folder(path: Path) -> Path:
    """Where unfinished work that can be gone on with lies."""
    return path.with_name(f"{path.name}.partial")


def require_resumable(path: Path, arguments: dict[str, Any] | None = None) -> None:
    """Raise InputError for unfinished work that is damaged, or not ours; said before a model is loaded.

    `arguments`: what is to be written, where that is known.
    """
    folder = partial_folder(path)
    if not os.path.lexists(folder):
        return
    owner = Ownership(folder, _DTYPES)
    try:
        journal = read_journal(folder)
        if journal is None:
            return
        if arguments is not None and journal["arguments"] != arguments:
            raise _of_other_arguments(folder)
        for name in ("experts", "sequence", "phase", *journal["extras"]):
            shape = _shape(name, journal["tokens"], journal["shape"], journal.get("width", 0))
            require_bytes(folder, name, _num_bytes(name, shape), exact=False)
            require_sum(folder, name, _num_bytes(name, shape), journal["sums"][name])
    finally:
        owner.release()


def _of_other_arguments(folder: Path) -> InputError:
    return InputError(
        f"{folder} holds unfinished work of other arguments; repeat those, choose another --out, or delete it"
    )


def _shape(name: str, tokens: int, shape: Sequence[int], width: int) -> tuple[int, ...]:
    """Of an array of so many tokens; `shape` (L, K)."""
    if name == "hidden":
        return (tokens, shape[0], width)
    return (tokens, *shape) if name in ("experts", "weights") else (tokens,)


def _num_bytes(name: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * np.dtype(_DTYPES[name]).itemsize


class TraceWriter:
    """Appends tokens to a trace file that appears, whole, at finish().

    `shape` (L, K), the optional arrays in `extras` ("weights", "step", "kept", "hidden") and the `width` of hidden
    states are those of every append. With `arguments` (a JSON object that says what is being written) what was
    committed is kept when the `with` block is left early, and a writer of the same path and arguments goes on from its
    last commit. Raises InputError where the unfinished work is of other arguments, damaged, or in the hands of another
    process.
    """

    def __init__(
        self,
        path: str | Path,
        num_experts: int,
        shape: tuple[int, int],
        *,
        extras: tuple[str, ...] = (),
        width: int = 0,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self.path, self.num_experts, self.shape = Path(path), num_experts, shape
        self.width = width
        self.tokens, self.progress = 0, 0
        self._arguments = arguments
        self._names = ("experts", "sequence", "phase", *extras)
        self._sums = dict.fromkeys(self._names, 0)
        self._identity = {
            "num_experts": num_experts,
            "shape": list(shape),
            "extras": list(extras),
            "arguments": arguments,
            **({"width": width} if width else {}),
        }
        check_file(self.path)
        self._owner: Ownership | None = None
        self._folder = partial_folder(self.path)
        if arguments is None:  # another each time, and known before it is made, so that it is always removed
            self._folder = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.partial")
        self._files: dict[str, IO[bytes]] = {}
        try:
            self._open_folder()
            self._files = {name: self._open(name) for name in self._names}
        except OSError as error:
            self._abandon()
            raise self._unwritable(error) from error
        except BaseException:
            self._abandon()
            raise

    def append(self, **arrays: npt.NDArray[Any]) -> None:
        """Add tokens: experts [T, L, K], sequence, phase [T] and the extras, converted to the types of the format."""
        assert set(arrays) == set(self._names)
        with self._written():
            for name, file in self._files.items():
                data = np.ascontiguousarray(arrays[name], _DTYPES[name]).data
                file.write(data)
                self._sums[name] = zlib.crc32(data, self._sums[name])
        self.tokens += len(arrays["experts"])

    def commit(self, progress: int = 0) -> None:
        """Make what was appended survive a crash; `progress` is what a later writer finds as `.progress`."""
        with self._written():
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
            counts = {"tokens": self.tokens, "progress": progress, "sums": self._sums}
            write_journal(self._folder, {**self._identity, **counts})
        self.progress = progress

    def finish(self, routers: Routers | None = None, /, **meta: Any) -> dict[str, Any]:
        """Write the trace file from all that was appended and remove the unfinished work; the meta object stored.

        `routers`: of the model, to be stored beside.

        Raises InputError where that work was changed behind our back: nothing is made up for what is missing.
        """
        if not self.tokens:
            raise InputError(f"{self.path}: not written: there are no tokens")
        full = {**trace_meta(self.num_experts, self.shape[1], self.shape[0]), **meta}
        for name, file in self._files.items():
            with self._written():
                file.flush()
            require_bytes(self._folder, name, self._num_bytes(name), exact=True)
        arrays = {name: self.array(name) for name in self._names}
        also = {} if routers is None else routers.arrays()
        write_arrays(self.path, {**arrays, **also, "meta": meta_array(full)})
        self._remove()
        return full

    def array(self, name: str) -> npt.NDArray[Any]:
        """A read-only view of all that was appended to one array."""
        self._files[name].flush()
        return np.memmap(self._folder / name, _DTYPES[name], "r", 0, self._shape(name)).view(np.ndarray)

    def _shape(self, name: str) -> tuple[int, ...]:
        return _shape(name, self.tokens, self.shape, self.width)

    def _num_bytes(self, name: str) -> int:
        return _num_bytes(name, self._shape(name))

    def _open_folder(self) -> None:
        if self._arguments is None:
            self._folder.mkdir(mode=0o700)
            return
        self._owner = Ownership(self._folder, _DTYPES)
        journal = read_journal(self._folder)
        if journal is not None:
            self._resume(self._folder, journal)

    def _resume(self, folder: Path, journal: dict[str, Any]) -> None:
        if {key: journal.get(key) for key in self._identity} != self._identity:
            raise _of_other_arguments(folder)
        self.tokens, self.progress, self._sums = journal["tokens"], journal["progress"], journal["sums"]
        for name in self._names:
            require_bytes(folder, name, self._num_bytes(name), exact=False)

    def _open(self, name: str) -> IO[bytes]:
        """One array's file, cut back to what is committed."""
        file = (self._folder / name).open("ab")
        file.truncate(self._num_bytes(name))
        return file

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"{self.path}: cannot be written: {error.strerror}; choose another place")

    def _close(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # of what is in no journal: a full disk said so before
                file.close()
        if self._owner is not None:
            self._owner.release()

    def _abandon(self) -> None:
        self._close()
        if self._arguments is None:
            remove_folder(self._folder)

    def _remove(self) -> None:
        for file in self._files.values():
            file.close()
        if self._owner is None:
            shutil.rmtree(self._folder)
        else:
            self._owner.remove()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owner is not None and self._folder.exists() and not (self._folder / JOURNAL).exists():
            self._remove()  # nothing was committed
        self._abandon()
