"""Compilation of kernels where numba is installed; the same functions run as plain Python, slower, where it is not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

try:
    from numba import njit
except ImportError:
    njit = None

COMPILED = njit is not None


def compiled(function: F) -> F:
    """`function`, compiled where a kernel first calls it; itself without numba."""
    return function if njit is None else cast(F, njit(nogil=True, error_model="numpy")(function))


def compiled_and_kept(function: F) -> F:
    """`function`, compiled at its first call with all that it calls, and kept on disk where there is a place for it.

    numba takes a kept kernel for stale by the file of its outermost function and that function's closure, so a change
    in another file goes unnoticed unless the closure holds `source_stamp()`.
    """
    if njit is None:
        return function
    try:
        return cast(F, njit(nogil=True, error_model="numpy", cache=True)(function))
    except RuntimeError:  # no folder to keep it in
        return compiled(function)


def source_stamp(*modules: str) -> int:
    """A number that changes with the source of any of these modules of this package."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update((Path(__file__).parent / f"{module}.py").read_bytes())
    return int.from_bytes(digest.digest()[:7], "big")
