"""Compilation of kernels by numba."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """`function`, compiled where a kernel first calls it."""
    return cast(F, njit(nogil=True, error_model="numpy")(function))


def compiled_and_kept(function: F) -> F:
    """`function`, compiled at its first call with all that it calls, and kept on disk where there is a place for it.

    numba takes a kept kernel for stale by the file of its outermost function and that function's closure, so a change
    in another file goes unnoticed unless the closure holds `source_stamp()`.
    """
    try:
        return cast(F, njit(nogil=True, error_model="numpy", cache=True)(function))
    except RuntimeError:  # no folder to keep it in
        return compiled(function)


@contextmanager
def announced(message: str, after_s: float = 5.0) -> Iterator[None]:
    """Say `message` on standard error when what is inside takes longer than `after_s`: compiling, not loading."""
    timer = threading.Timer(after_s, print, (message,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def source_stamp(*modules: str) -> int:
    """A number that changes with the source of this file and of any of these modules, given by their full names.

    A submodule is found without being imported, so that a module may name itself and its neighbours.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for module in modules:
        found = importlib.util.find_spec(module)
        if found is None or found.origin is None:
            raise ModuleNotFoundError(f"no module named {module!r} to take a stamp of")
        digest.update(Path(found.origin).read_bytes())
    return int.from_bytes(digest.digest()[:7], "big")
