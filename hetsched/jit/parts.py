"""How kernels are put together: parts are optimised once, where they end up, and kept kernels are called, not copied.

numba optimises every function for itself, makes machine code of it with an entry for Python, and then optimises it
again inside each function that calls it, level by level; of a kernel that is sixty functions in seven levels most is
compiled for nobody. Here a part is lowered and no more. All parts of a kernel are linked into its entry, where they
belong to it alone, and are optimised together. An entry that says what it takes is a function by name for others.

This rests on insides of numba: what a code library does when it is finalised, and flags of its compiler.
"""

from __future__ import annotations

import copy
import gc
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import llvmlite.binding as llvm
from numba.core import compiler, sigutils
from numba.core.codegen import JITCodeLibrary
from numba.core.dispatcher import Dispatcher
from numba.core.registry import CPUDispatcher

from .lower import EntryLowering, PartLowering, lowered_by, part_function

OPTIONS = {"nopython": True, "nogil": True, "error_model": "numpy", "boundscheck": None}


class _Library(JITCodeLibrary):  # type: ignore[misc]
    """Code whose functions are not optimised before all are together."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout


class PartLibrary(_Library):
    """The code of a part, as it was lowered: never run, only linked."""

    def finalize(self) -> None:
        """Nothing is done before an entry is."""
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """None: there is no machine code."""
        return 0

    def alone(self) -> Any:
        """Its module, without the parts that it calls."""
        return super()._get_module_for_linking()

    def _get_module_for_linking(self) -> Any:
        """For a function that numba compiles in its own way: the parts that it calls are in."""
        module = self.alone().clone()
        for library in _reached(self._linking_libraries):
            module.link_in(_module(library), preserve=True)
        return module


class EntryLibrary(_Library):
    """The code of an entry and of all its parts."""

    def finalize(self) -> None:
        """Link the parts of parts too, and let only what is the entry's own be seen from outside."""
        module = self._final_module
        own = {function.name for function in module.functions if not function.is_declaration}
        for library in list(_reached(self._linking_libraries)):
            self._reload_init.update(library._reload_init)
            module.link_in(_module(library), preserve=True)
        self._linking_libraries: list[Any] = []  # those are in
        for function in module.functions:
            if not function.is_declaration and function.name not in own:
                function.linkage = "private"  # internal ones would be taken for what others call by that name
        super().finalize()


def _module(library: Any) -> Any:
    """A library's own code, to be linked where those that it calls are linked too."""
    return library.alone() if isinstance(library, PartLibrary) else library._get_module_for_linking()


def _reached(libraries: list[Any]) -> Iterator[Any]:
    """These and those of parts among them, each once."""
    waiting, seen = list(libraries), set()
    while waiting:
        library = waiting.pop(0)
        if library not in seen:
            seen.add(library)
            yield library
            if isinstance(library, PartLibrary):
                waiting += library._linking_libraries


class _PartCompiler(compiler.Compiler):  # type: ignore[misc]
    """numba's, into a PartLibrary."""

    def define_pipelines(self) -> Any:
        """Those of numba."""
        state = self.state
        state.library = PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = state.flags.no_cpython_wrapper = state.flags.no_cfunc_wrapper = True
        return [lowered_by(passes, PartLowering) for passes in super().define_pipelines()]


class _EntryCompiler(compiler.Compiler):  # type: ignore[misc]
    """numba's, into an EntryLibrary."""

    def define_pipelines(self) -> Any:
        """Those of numba."""
        state = self.state
        state.library = EntryLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        state.flags.no_cfunc_wrapper = True
        return [lowered_by(passes, EntryLowering) for passes in super().define_pipelines()]


class Part(CPUDispatcher):  # type: ignore[misc]
    """A function for the inside of kernels. Called from Python, as by a test, it becomes an entry of its own."""

    def __init__(self, function: Any, **options: Any) -> None:
        targeted = {**OPTIONS, **options}
        super().__init__(function, targetoptions=targeted, pipeline_class=_PartCompiler)
        self._alone: Entry | None = None

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """As numba's, but one compiled form serves all values of a type, literal or not."""
        return super().get_call_template([_plain(arg) for arg in args], {k: _plain(arg) for k, arg in kws.items()})

    def add_overload(self, made: Any) -> None:
        """Tell kernels of it, and not Python."""
        made = made._replace(entry_point=(self, made.signature))
        call = part_function(made.fndesc, [made.library])
        self.targetctx._defns[made.entry_point].append(call, made.signature.args)
        self.overloads[tuple(made.signature.args)] = made

    def _compile_for_args(self, *args: Any, **kws: Any) -> Any:
        if self._alone is None:
            self._alone = Entry(self.py_func, self.targetoptions)
        return self._alone


class Entry(CPUDispatcher):  # type: ignore[misc]
    """A kernel that Python calls; with a `signature`, other kernels call it too, by a name that outlives the process.

    Without one, a kernel that calls it gets a copy of its code.
    """

    def __init__(self, function: Any, options: dict[str, Any] = OPTIONS, signature: str = "") -> None:
        super().__init__(function, targetoptions=options, pipeline_class=_EntryCompiler)
        self._signature = signature
        self._called: list[Entry] | None = None

    def make_ready(self) -> None:
        """Compile it for its signature, or read it from disk."""
        self.compile(sigutils.normalize_signature(self._signature)[0])

    def compile(self, sig: Any) -> Any:
        """As numba's, after all entries that it calls: code read from disk must find them."""
        if self._called is None:
            self._called = [other for other in _named(self.py_func, set()) if other._signature]
        for other in self._called:
            other.make_ready()
        with _uncollected():
            return super().compile(sig)

    def add_overload(self, made: Any) -> None:
        """Tell Python of it, and kernels by name."""
        if self._signature:
            described = copy.copy(made.fndesc)
            arguments = ", ".join(map(str, made.signature.args))
            digest = hashlib.sha256(f"{self.py_func.__module__} {arguments}".encode()).hexdigest()[:12]
            described.mangled_name = f"{self.py_func.__qualname__} {digest}"
            llvm.add_symbol(described.mangled_name, made.library.get_pointer_to_function(made.fndesc.mangled_name))
            entry_point = self, made.signature
            self.targetctx.insert_user_function(entry_point, described)
            self._insert([arg._code for arg in made.signature.args], made.entry_point, False)
            self.overloads[tuple(made.signature.args)] = made._replace(entry_point=entry_point)
        else:
            super().add_overload(made)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: compiling makes millions of objects and next to no cycles of them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _plain(argument: Any) -> Any:
    return getattr(argument, "literal_type", argument)


def _named(function: Any, seen: set[Any]) -> Iterator[Entry]:
    """The entries that a function names, directly or by way of parts."""
    for name in _names(function.__code__):
        found = function.__globals__.get(name)
        if isinstance(found, Dispatcher) and found not in seen:
            seen.add(found)
            if isinstance(found, Entry):
                yield found
            else:
                yield from _named(found.py_func, seen)


def _names(code: CodeType) -> set[str]:
    inside = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inside)
