"""Traces larger than memory: writing, checking, reading and summing up need memory for a chunk, not for the file."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hetsched.cache import cache_folder
from hetsched.errors import InputError
from hetsched.traces import archive
from hetsched.traces.split import sequence_starts, sequences
from hetsched.traces.trace import load_trace, save_trace
from hetsched.traces.writer import TraceWriter
from tests.traces.made import made, same, saved

MIB = 1 << 20


@contextmanager
def peak_below(limit_bytes: int) -> Iterator[None]:
    """Memory that Python and NumPy allocate inside stays below a limit; mapped files are not allocated."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit_bytes, f"{peak / MIB:.0f} MiB"


def test_ten_million_tokens_need_a_few_megabytes(tmp_path: Path) -> None:
    """A file of 124 MiB: written in pieces, checked wholly, used in part."""
    tokens, piece, path = 10_000_000, 200_000, tmp_path / "large.npz"
    with peak_below(24 * MIB):
        with TraceWriter(path, 64, (2, 2)) as writer:
            for start in range(0, tokens, piece):
                first_C = np.arange(start, start + piece) % 64
                experts_CLK = np.stack([first_C, (first_C + 1) % 64] * 2, axis=1).reshape(piece, 2, 2).astype(np.int16)
                numbers_C = np.arange(start, start + piece) // 1_000_000
                writer.append(experts=experts_CLK, sequence=numbers_C, phase=np.ones(piece, np.uint8))
            writer.finish(model="large")
        assert path.stat().st_size > 120 * MIB
        trace = load_trace(path)
        assert (trace.num_tokens, trace.num_layers, trace.top_k) == (tokens, 2, 2)
        assert sequence_starts(trace).tolist() == list(range(0, tokens + 1, 1_000_000))
        last = sequences(trace, 9, 10)
        assert last.demand_LE(slice(0, 640)).tolist() == [[20] * 64] * 2


def test_compressed_large_arrays_are_unpacked_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks, into a file without a name that the system frees with the last view, never into memory."""
    monkeypatch.setattr(archive, "READ_WHOLE_BYTES", 100)
    first, path = made(tokens=1_500, layers=8, experts=8, top_k=4), tmp_path / "c.npz"
    long = {"sequence_T": np.zeros(150_000, np.int32), "phase_T": np.ones(150_000, np.uint8)}
    first = replace(first, experts_TLK=np.tile(first.experts_TLK, (100, 1, 1)), **long)
    save_trace(path, first, compress=True)
    assert first.experts_TLK.nbytes > 9 * MIB
    with peak_below(6 * MIB):
        trace = load_trace(path)
        assert not trace.experts_TLK.flags.writeable
    assert same(trace, first)
    assert list(cache_folder("traces").iterdir()) == []
    del trace
    gc.collect()
    assert unnamed_files(cache_folder("traces")) == []


def unnamed_files(folder: Path) -> list[str]:
    """Mappings of this process to removed files of a folder."""
    lines = Path("/proc/self/maps").read_text().splitlines() if Path("/proc/self/maps").exists() else []
    return [line for line in lines if str(folder) in line and "(deleted)" in line]


def test_a_damaged_large_array_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte of the compressed data is wrong: one line, and neither a file nor a mapping stays."""
    monkeypatch.setattr(archive, "READ_WHOLE_BYTES", 100)
    save_trace(tmp_path / "c.npz", made(tokens=3000), compress=True)
    data = bytearray((tmp_path / "c.npz").read_bytes())
    data[3000] ^= 0xFF
    (tmp_path / "c.npz").write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        load_trace(tmp_path / "c.npz")
    assert list(cache_folder("traces").iterdir()) == []
    assert unnamed_files(cache_folder("traces")) == []


def test_unpacking_asks_for_room_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than the disk has free are refused before any is written; without a cache, another folder serves."""
    path = tmp_path / "c.npz"
    save_trace(path, made(tokens=300), compress=True)
    monkeypatch.setattr(archive, "READ_WHOLE_BYTES", 100)
    monkeypatch.setenv("HETSCHED_CACHE", str(path))  # a file: no folder can be made in it
    assert same(load_trace(path), made(tokens=300))
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"c\.npz: .* bytes unpacked, and .* has 1,000 free"):
        load_trace(path)


def test_a_mapped_trace_outlives_its_replacement(tmp_path: Path) -> None:
    """save_trace onto the file that is being read, as a split in place does."""
    path = saved(tmp_path / "t.npz", seed=1)
    mapped = load_trace(path)
    saved(path, seed=2)
    assert same(mapped, made(seed=1))
    assert same(load_trace(path), made(seed=2))
