"""Kernels as C functions: what Python's call gives, from a thread that the interpreter has never heard of."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from hetsched.jit import compiled_and_kept, compiled_lean
from hetsched.jit.c_call import FAILED, CFunction
from hetsched.jit.shared import observed, publish


@compiled_and_kept
def weigh(a_MN: Any, nest: Any, factor: float, flag: bool, number: int) -> int:
    """Reads every kind of argument and writes to arrays in tuples."""
    total = 0.0
    for i in range(a_MN.shape[0]):
        for j in range(a_MN.shape[1]):
            total += a_MN[i, j]
    nest[0][0] = factor * total
    nest[1][0][1, 2] = 7 if flag else 8
    return int(total) + number + int(np.ones(4).sum())


@compiled_and_kept
def count(a_N: Any) -> None:
    a_N[0] += 1


@compiled_and_kept
def refuse(a_N: Any) -> int:
    if a_N[0] > 0:
        raise ValueError("no")
    return 5


@compiled_lean
def _hand_over(state_N: Any, i: int) -> int:
    publish(state_N, i, observed(state_N, i) + 3)
    return int(observed(state_N, i))


@compiled_and_kept
def hand_over(wide_N: Any, narrow_N: Any) -> int:
    return int(_hand_over(wide_N, 1) + 100 * _hand_over(narrow_N, 2))


def given() -> tuple[Any, ...]:
    strided = np.arange(24.0).reshape(3, 8)[:, ::2]
    return strided, (np.zeros(3), (np.zeros((2, 3), np.uint8), ())), 2.5, True, 11


def test_a_c_function_does_what_the_kernel_does() -> None:
    """Strided and nested arrays, numbers, memory of its own."""
    mine, other = given(), given()
    called = CFunction((weigh, mine))
    assert called() == weigh(*other)
    assert mine[1][0].tolist() == other[1][0].tolist() != [0.0, 0.0, 0.0]
    assert mine[1][1][0].tolist() == other[1][1][0].tolist() == [[0, 0, 0], [0, 0, 7]]


def test_arguments_are_words_and_may_be_changed() -> None:
    called = CFunction((weigh, given()))
    assert called.given[0][-3:].tolist() == [np.float64(2.5).view(np.int64), 1, 11]
    before = called()
    called.given[0][-1] = 12
    assert called() == before + 1


def test_all_kernels_run_and_the_first_complaint_is_the_result() -> None:
    a_N = np.zeros(1, np.int64)
    assert CFunction((count, (a_N,)), (count, (a_N,)))() == 0
    assert a_N[0] == 2
    assert CFunction((refuse, (a_N,)), (count, (a_N,)))() == FAILED
    assert a_N[0] == 3
    a_N[0] = -1
    assert CFunction((count, (a_N,)), (refuse, (a_N,)), (count, (a_N,)), (refuse, (a_N,)))() == 5
    assert a_N[0] == 1


def test_one_reader_serves_all_arguments_of_a_kind() -> None:
    several = CFunction(*[(count, (np.zeros(size, np.int64),)) for size in (1, 4)], (count, (np.zeros(1),)))
    (first, second, third) = several.words[1::2].tolist()
    assert first == second != third


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_shared_numbers(kind: Any) -> None:
    wide_N, narrow_N = np.arange(4), np.arange(4, dtype=kind)
    assert CFunction((hand_over, (wide_N, narrow_N)))() == 4 + 500
    assert (wide_N.tolist(), narrow_N.tolist()) == ([0, 4, 2, 3], [0, 1, 5, 3])


def test_a_thread_of_c_runs_it_while_the_interpreter_is_locked() -> None:
    """pthread_join through PyDLL keeps the lock: a function that asked for it would never end."""
    mine, other = given(), given()
    called = CFunction((weigh, mine))
    run_in_c_thread(called)
    weigh(*other)
    assert mine[1][0].tolist() == other[1][0].tolist()


def run_in_c_thread(called: CFunction) -> int:
    """Call it in a new thread of C, holding the interpreter's lock all the time; its result."""
    library, thread, result = ctypes.PyDLL(None), ctypes.c_ulong(), ctypes.c_int64()
    where = ctypes.c_void_p(called.words.ctypes.data)
    assert not library.pthread_create(ctypes.byref(thread), None, ctypes.c_void_p(called.address), where)
    assert not library.pthread_join(thread, ctypes.byref(result))
    return result.value


def test_other_arguments_may_be_given() -> None:
    """Those of one kernel change, and those of the other stay; what was given lives as long as the function."""
    first, second = np.zeros(1), np.zeros(1)
    called = CFunction((count, (first,)), (count, (second,)))
    called()
    called.give(1, (np.zeros(1),))
    assert called() == 0
    assert (first[0], second[0], called.calls[1][1][0][0]) == (2.0, 1.0, 1.0)
