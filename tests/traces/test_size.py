"""Traces larger than memory: writing, checking, reading and summing up need memory for a chunk, not for the file."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hetsched.cache import cache_folder
from hetsched.trace import load_trace, save_trace
from hetsched.traces import archive
from hetsched.traces.split import sequence_starts, sequences
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


def test_compressed_large_arrays_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the cache folder, in chunks; the next reader finds them there; other contents get another name."""
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
    unpacked = {file: file.stat().st_mtime_ns for file in cache_folder("traces").iterdir()}
    assert same(load_trace(path), first)
    assert {file: file.stat().st_mtime_ns for file in cache_folder("traces").iterdir()} == unpacked
    other = made(tokens=300, seed=5)
    save_trace(path, other, compress=True)
    assert same(load_trace(path), other)


def test_a_mapped_trace_outlives_its_replacement(tmp_path: Path) -> None:
    """save_trace onto the file that is being read, as a split in place does."""
    path = saved(tmp_path / "t.npz", seed=1)
    mapped = load_trace(path)
    saved(path, seed=2)
    assert same(mapped, made(seed=1))
    assert same(load_trace(path), made(seed=2))
