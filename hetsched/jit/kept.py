"""Kernels on disk, which may be damaged, or have no room: then they are compiled anew, and nobody is told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache


def kept_njit(**options: Any) -> Callable[[Any], Any]:
    """numba's own njit(cache=True, ...), for functions that are compiled in its own way."""

    def made(function: Any) -> Any:
        kernel = njit(**options)(function)
        keep(kernel)
        return kernel

    return made


def keep(kernel: Any) -> None:
    """Let a compiled function be read from disk, and written there, where there is a folder for it."""
    with suppress(RuntimeError):  # there is none
        kernel._cache = KeptCache(kernel.py_func)


class KeptCache(FunctionCache):  # type: ignore[misc]
    """numba's, which lets pass what reading a damaged file or writing to a full disk raises."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is kept for this signature; None for nothing, or nothing that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # unpickling raises all kinds
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep it, if it can be."""
        with suppress(OSError):
            super().save_overload(sig, data)
