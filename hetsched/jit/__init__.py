"""Compilation of kernels by numba."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit, typeof
from numba.core import cgutils
from numba.extending import intrinsic

from .kept import keep
from .parts import Entry, Part

F = TypeVar("F", bound=Callable[..., Any])
HERE = ("hetsched.jit", "hetsched.jit.parts", "hetsched.jit.lower")
_BEGUN_S = time.time()
_SPECIALISED: dict[tuple[Any, ...], Any] = {}


def compiled(function: F) -> F:
    """`function`, compiled where a kernel first calls it."""
    return cast(F, Part(function))


def compiled_lean(function: F) -> F:
    """As `compiled`, for what makes no array, on borrowed ones: without any counting of references.

    It must not return arrays that are not borrowed to a kernel that does count: that one would give up a reference
    which it was never given.
    """
    return cast(F, Part(function, _nrt=False))


def compiled_and_kept(function: F) -> F:
    """`function`, compiled at its first call with all that it calls, and kept on disk where there is a place for it.

    numba takes a kept kernel for stale by the file of its outermost function and that function's closure, so a change
    in another file goes unnoticed unless the closure holds `source_stamp()`.
    """
    return _kept(function)


def _kept(function: F, signature: str = "") -> F:
    entry = Entry(function, signature=signature)
    keep(entry)
    return cast(F, entry)


def compiled_by_name(signature: str) -> Callable[[F], F]:
    """As `compiled_and_kept`, for arguments of this one signature, in numba's words.

    Kernels that call it do not contain it: it is compiled once, for them and for Python.
    """
    return lambda function: _kept(function, signature)


@intrinsic  # type: ignore[untyped-decorator]
def borrowed(context: Any, array: Any) -> Any:
    """The same array, not counted: whoever called the outermost kernel keeps it alive.

    numba counts references to every array of a tuple at every call that it is handed to, with atomic additions; for a
    board of thirty sections that costs more than what is done with them. Must not be returned to Python.
    """

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        view = target.make_array(signature.args[0])(target, builder, values[0])
        view.meminfo = cgutils.get_null_value(view.meminfo.type)
        view.parent = cgutils.get_null_value(view.parent.type)
        return view._getvalue()

    return array(array), generate


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


def types_of(*arguments: Any) -> tuple[Any, ...]:
    """The types by which a kernel knows these arguments; `kernel.compile(types)` compiles it without a call."""
    return tuple(typeof(argument) for argument in arguments)


def source_stamp(*modules: str) -> int:
    """A number that changes with the source of this file and of any of these modules, given by their full names.

    A submodule is found without being imported, so that a module may name itself and its neighbours.
    """
    digest = hashlib.sha256()
    for module in (*HERE, *modules):
        found = importlib.util.find_spec(module)
        if found is None or found.origin is None:
            raise ModuleNotFoundError(f"no module named {module!r} to take a stamp of")
        source = Path(found.origin)
        digest.update(source.read_bytes())
        if source.stat().st_mtime > _BEGUN_S:  # later than it may have been imported: a kernel for nobody else
            digest.update(os.urandom(8))
    return int.from_bytes(digest.digest()[:7], "big")


def specialised(name: str, template: Callable[[int], F], stamp: int, **kernels: Any) -> F:
    """`template(stamp)`, compiled and kept with its global names in `kernels` bound to these compiled functions.

    One loop, written once, becomes one kernel for each policy: numba compiles a call of a global straight, where a
    kernel handed over as an argument could not be kept on disk. `name` tells the kept ones apart; `stamp` belongs to
    the sources of all kernels, and the template must use it.
    """
    return cast(F, _once((name, template, stamp), kernels, lambda: _kept(_bound(name, template(stamp), kernels))))


def bound(name: str, function: F, **kernels: Any) -> F:
    """`function` with its global names in `kernels` bound, for the inside of kernels."""
    return cast(F, _once((name, function), kernels, lambda: compiled(_bound(name, function, kernels))))


def inlined(name: str, function: F, **kernels: Any) -> F:
    """As `bound`, and made part of each kernel before it is compiled: what it takes and returns is not handed over."""
    options = {"nogil": True, "error_model": "numpy", "inline": "always"}
    made = _once((name, function, "inlined"), kernels, lambda: njit(**options)(_bound(name, function, kernels)))
    return cast(F, made)


def threaded(name: str, template: Callable[[int], F], stamp: int, **kernels: Any) -> F:
    """As `specialised`, in numba's own way, whose threads share out a loop over `prange`."""

    def make() -> Any:
        bound = _bound(f"{name} threaded", template(stamp), kernels)  # apart, on disk, from what runs in one thread
        made = njit(parallel=True, nogil=True, error_model="numpy")(bound)
        keep(made)
        return made

    return cast(F, _once((name, template, stamp, "threaded"), kernels, make))


def _once(key: tuple[Any, ...], kernels: dict[str, Any], make: Callable[[], Any]) -> Any:
    key = (*key, *sorted(kernels.items()))
    if key not in _SPECIALISED:
        _SPECIALISED[key] = make()
    return _SPECIALISED[key]


def _bound(name: str, made: Any, kernels: dict[str, Any]) -> Any:
    """The function with these global names bound, and a name of its own."""
    names = {**made.__globals__, **kernels}
    bound = types.FunctionType(made.__code__, names, made.__name__, made.__defaults__, made.__closure__)
    bound.__qualname__ = f"{made.__name__}[{name}]"
    return bound
