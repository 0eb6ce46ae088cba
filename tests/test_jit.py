"""Kernels put together by hetsched.jit: what numba's own way would give, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest

from hetsched import jit
from hetsched.jit import bound, compiled, compiled_and_kept, compiled_lean


class Pair(NamedTuple):
    """Two arrays and a number."""

    first: Any
    second: Any
    number: int


class Nest(NamedTuple):
    """A tuple in a tuple."""

    pair: Pair
    flag: bool


def test_a_source_written_since_this_process_began_stamps_nothing_for_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is in memory may be older than the file: a kernel of the one must not be kept as one of the other."""
    (tmp_path / "lately_written.py").write_text("ONE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(jit, "_BEGUN_S", time.time() + 3600)
    assert jit.source_stamp("lately_written") == jit.source_stamp("lately_written")
    monkeypatch.setattr(jit, "_BEGUN_S", time.time() - 3600)
    assert jit.source_stamp("lately_written") != jit.source_stamp("lately_written")


def make(size: int) -> Pair:
    return Pair(np.arange(size), np.ones(size), size)


def swapped(pair: Pair) -> Pair:
    return Pair(pair.first + 1, pair.second * 2, -pair.number)


def total(pair: Pair, anew: bool) -> float:
    """Gives its argument another value, on one way through."""
    if anew:
        pair = make_part(4)
    return float(pair.first.sum() + pair.second.sum() + pair.number)


def same(pair: Pair) -> Pair:
    return pair


def inner(nest: Nest, times: int) -> float:
    """What was taken out of a tuple outlives it."""
    pair, result = nest.pair, 0.0
    for _ in range(times):
        nest = Nest(swap_part(same_part(pair)), not nest.flag)
        result += total_part(pair, nest.flag) + total_part(nest.pair, False)
        pair = nest.pair
    return result + nest.pair[2] + nest[0].number


make_part, swap_part, total_part, same_part = compiled(make), compiled(swapped), compiled(total), compiled(same)
inner_part = compiled(inner)


def outer(size: int, times: int) -> float:
    nest = Nest(make_part(size), True)
    first = inner_part(nest, times)
    return first + inner_part(nest, times) + float(nest.pair.second.sum())


outer_kernel = compiled_and_kept(outer)


@pytest.mark.parametrize(("size", "times"), [(1, 1), (3, 4), (8, 7)])
def test_tuples_by_pointer_are_what_they_were(size: int, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one is given another value, handed back, or taken out of one that is gone; no array is left over."""
    from numba.core.runtime import _nrt_python, rtsys

    _nrt_python.memsys_enable_stats()
    found = outer_kernel(size, times)
    before = rtsys.get_allocation_stats()
    assert outer_kernel(size, times) == found
    after = rtsys.get_allocation_stats()
    assert after.alloc - before.alloc == after.free - before.free > 0
    for name, plain in (("make", make), ("swap", swapped), ("total", total), ("same", same), ("inner", inner)):
        monkeypatch.setitem(globals(), f"{name}_part", plain)
    assert found == outer(size, times)


def test_a_part_may_be_called_from_python() -> None:
    """As kernels call it."""

    @compiled_lean
    def spread(out_N: Any, pair: Pair) -> int:
        for i in range(len(out_N)):
            out_N[i] = pair.first[i] * pair.number
        return len(out_N)

    out_N = np.zeros(3, np.int64)
    assert spread(out_N, make(3)) == 3
    assert out_N.tolist() == [0, 3, 6]


def test_numba_may_call_a_part() -> None:
    """A function compiled in numba's own way gets all of a part, and not what an entry made of it for itself."""

    @compiled
    def power(x: float, pair: Pair, times: int, unused: Pair) -> float:
        result = 1.0
        for i in range(times):
            for f in range(len(pair.first)):
                result *= x if (pair.first[f] + i) % 2 else 1.0
                if result > 1e9:
                    result -= 1e9 * pair.second[f]
        return result

    def twice(pair: Pair, x: float) -> float:
        return power(x, pair, 5, pair) + power(x + 1.0, pair, 4, pair) + power(x, pair, len(pair.first), pair)

    plain, entry = numba.njit(twice), compiled_and_kept(twice)
    expected = twice(make(3), 2.0)
    assert (entry(make(3), 2.0), plain(make(3), 2.0)) == (expected, expected)


def test_names_are_bound_apart() -> None:
    """One function with two meanings of a global name is two parts."""

    def twice(x: int) -> int:
        return int(change(change(x)))  # type: ignore[name-defined]  # noqa: F821

    up, down = compiled(lambda x: x + 3), compiled(lambda x: x - 1)
    higher, lower = bound("up", twice, change=up), bound("down", twice, change=down)
    assert bound("up", twice, change=up) is higher
    assert (higher(5), lower(5)) == (11, 3)


KERNELS = """
import sys
import time
from hetsched import jit
from hetsched.jit import bound, compiled, compiled_and_kept, compiled_by_name

@compiled_by_name("(int64, float64)")
def raised(a, b):
    return b ** a

def _ask(a):
    return solve(a, 2.0)

ask = bound("one", _ask, solve=raised)

@compiled_and_kept
def whole(a):
    return ask(a) + 1.0

print(whole(5), sum(whole.stats.cache_hits.values()), sum(raised.stats.cache_hits.values()), len(raised.signatures))
"""


def test_a_kernel_called_by_name_is_there_when_its_caller_is_read_from_disk(tmp_path: Path) -> None:
    """Compiled in one process, read in the next; and compiled alone where only its own copy on disk is gone."""
    (tmp_path / "kernels.py").write_text(KERNELS)
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept"), "PYTHONPATH": os.pathsep.join(sys.path)}

    def run() -> str:
        argv = [sys.executable, "-c", "import kernels"]
        done = subprocess.run(argv, capture_output=True, text=True, env=env, check=True, cwd=tmp_path)
        return done.stdout.strip()

    assert run() == "33.0 0 0 1"
    assert run() == "33.0 1 1 1"
    for path in (tmp_path / "kept").rglob("kernels.raised*"):
        path.unlink()
    assert run() == "33.0 1 0 1"


def test_one_template_in_one_thread_and_in_many_is_kept_apart() -> None:
    """Else whichever is compiled first would be read from disk for the other."""

    def template(stamp: int) -> Any:
        def kernel(a: int) -> int:
            return a + stamp

        return kernel

    alone, shared = jit.specialised("same", template, 1), jit.threaded("same", template, 1)
    assert alone.__qualname__ != shared.__qualname__


KEPT = """
from hetsched.jit import compiled_and_kept

@compiled_and_kept
def one_more(number):
    return number + 1

print(one_more(1), sum(one_more.stats.cache_hits.values()))
"""
DAMAGES = [(ending, damage) for ending in ("nbi", "nbc") for damage in (b"", b"half", b"junk")]


def test_a_kept_kernel_that_is_damaged_is_compiled_anew(tmp_path: Path) -> None:
    """Each kernel by itself, whatever has been done to its index or to its code, and nothing is said."""
    names = [f"kept{i}" for i in range(len(DAMAGES))]
    for name in names:
        (tmp_path / f"{name}.py").write_text(KEPT)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}

    def says() -> list[str]:
        """In a new process."""
        command = [sys.executable, "-c", f"import {', '.join(names)}"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.stderr == ""
        return done.stdout.splitlines()

    compiled, read = ["2 0"] * len(names), ["2 1"] * len(names)
    assert (says(), says()) == (compiled, read)
    for name, (ending, damage) in zip(names, DAMAGES, strict=True):
        (kept,) = (tmp_path / "kernels").rglob(f"{name}.*.{ending}")
        kept.write_bytes(kept.read_bytes()[: kept.stat().st_size // 2] if damage == b"half" else damage)
    assert (says(), says()) == (compiled, read)
