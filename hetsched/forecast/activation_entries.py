"""The kernels of activation matrices as calls from Python, compiled once and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..jit import compiled_and_kept, source_stamp
from ..types import FloatArray, IntArray
from . import activation_kernels as kernels
from .activation_kernels import SOURCE, Matrices


class Entries(NamedTuple):
    """As in activation_kernels.py."""

    begin: Callable[..., None]
    follow: Callable[..., None]
    compare: Callable[..., None]
    nearest: Callable[..., int]
    store: Callable[..., None]


def _entries(stamp: int) -> Entries:
    @compiled_and_kept
    def begin(past: Matrices) -> None:
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        kernels.begin(past)

    @compiled_and_kept
    def follow(past: Matrices, layer: int, active_N: IntArray, tokens_N: IntArray) -> None:
        assert stamp >= 0
        kernels.follow(past, layer, active_N, tokens_N)

    @compiled_and_kept
    def compare(past: Matrices) -> None:
        assert stamp >= 0
        kernels.compare(past)

    @compiled_and_kept
    def nearest(past: Matrices) -> int:
        assert stamp >= 0
        return kernels.nearest(past)

    @compiled_and_kept
    def store(past: Matrices, count_LE: FloatArray) -> None:
        assert stamp >= 0
        kernels.store(past, count_LE)

    return Entries(begin, follow, compare, nearest, store)


entries = _entries(source_stamp("hetsched.forecast.activation_entries", SOURCE))
