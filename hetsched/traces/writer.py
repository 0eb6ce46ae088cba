"""Traces that are written while they grow: on disk, not in memory, and resumable after a crash.

Beside the file to be, `<name>.partial/` holds each array as raw bytes and a journal that says how many tokens are
committed, replaced atomically. What was appended after the last commit is lost when the process dies.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..files import check_file
from .archive import write_arrays
from .meta import meta_array, trace_meta

_DTYPES = {"experts": np.int16, "sequence": np.int32, "phase": np.uint8, "weights": np.float16, "step": np.int32}


class TraceWriter:
    """Appends tokens to a trace file that appears, whole, at finish().

    `shape` (L, K) and the optional arrays in `extras` ("weights", "step") are those of every append. With `arguments`
    (a JSON object that says what is being written) the unfinished work is kept when the `with` block is left early,
    and a writer of the same path and arguments goes on from its last commit; of other arguments is an InputError.
    """

    def __init__(
        self,
        path: str | Path,
        num_experts: int,
        shape: tuple[int, int],
        *,
        extras: tuple[str, ...] = (),
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self.path, self.num_experts, self.shape = Path(path), num_experts, shape
        self.tokens, self.progress = 0, 0
        self._arguments = arguments
        self._names = ("experts", "sequence", "phase", *extras)
        self._identity = {
            "num_experts": num_experts,
            "shape": list(shape),
            "extras": list(extras),
            "arguments": arguments,
        }
        check_file(self.path)
        try:
            self._folder = self._open_folder()
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}; choose another place") from error
        self._files: dict[str, IO[bytes]] = {name: self._open(name) for name in self._names}

    def append(self, **arrays: npt.NDArray[Any]) -> None:
        """Add tokens: experts [T, L, K], sequence, phase [T] and the extras, converted to the types of the format."""
        assert set(arrays) == set(self._names)
        for name, file in self._files.items():
            np.ascontiguousarray(arrays[name], _DTYPES[name]).tofile(file)
        self.tokens += len(arrays["experts"])

    def commit(self, progress: int = 0) -> None:
        """Make what was appended survive a crash; `progress` is what a later writer finds as `.progress`."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self.progress = progress
        journal = {**self._identity, "tokens": self.tokens, "progress": progress}
        new = self._folder / "journal.json.new"
        with new.open("w") as out:
            json.dump(journal, out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(new, self._folder / "journal.json")

    def finish(self, **meta: Any) -> dict[str, Any]:
        """Write the trace file from all that was appended and remove the unfinished work; the meta object stored."""
        if not self.tokens:
            raise InputError(f"{self.path}: not written: there are no tokens")
        full = {**trace_meta(self.num_experts, self.shape[1], self.shape[0]), **meta}
        for file in self._files.values():
            file.flush()
        arrays = {name: self.array(name) for name in self._names}
        write_arrays(self.path, {**arrays, "meta": meta_array(full)})
        self._close()
        shutil.rmtree(self._folder)
        return full

    def array(self, name: str) -> npt.NDArray[Any]:
        """A read-only view of all that was appended to one array."""
        self._files[name].flush()
        return np.memmap(self._folder / name, _DTYPES[name], "r", 0, self._shape(name)).view(np.ndarray)

    def _shape(self, name: str) -> tuple[int, ...]:
        return (self.tokens, *self.shape) if name in ("experts", "weights") else (self.tokens,)

    def _open_folder(self) -> Path:
        if self._arguments is None:
            return Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", suffix=".partial", dir=self.path.parent))
        folder = self.path.with_name(f"{self.path.name}.partial")
        folder.mkdir(exist_ok=True)
        if (folder / "journal.json").exists():
            self._resume(folder, json.loads((folder / "journal.json").read_text()))
        return folder

    def _resume(self, folder: Path, journal: dict[str, Any]) -> None:
        if {key: journal.get(key) for key in self._identity} != self._identity:
            raise InputError(
                f"{folder} holds unfinished work of other arguments; repeat those, choose another --out, or delete it"
            )
        self.tokens, self.progress = journal["tokens"], journal["progress"]

    def _open(self, name: str) -> IO[bytes]:
        """One array's file, cut back to what is committed."""
        file = (self._folder / name).open("ab")
        file.truncate(int(np.prod(self._shape(name))) * np.dtype(_DTYPES[name]).itemsize)
        return file

    def _close(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if self._arguments is None:
            shutil.rmtree(self._folder, ignore_errors=True)
