"""Parts: functions that only kernels call, as numba would compile them but for one thing: they are optimised once.

numba optimises a function for itself, turns it into machine code with an entry for Python, and then optimises it again
inside each function that calls it, level by level. Where a kernel is sixty functions deep in seven levels, most of its
compilation is spent on code that nobody runs. A part is lowered and no more; all parts of a kernel are linked into its
entry, and there they are optimised together.

This leans on insides of numba (its code libraries); `parts_work` says whether they are as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import llvmlite.binding as llvm
from numba.core import compiler
from numba.core.codegen import JITCodeLibrary
from numba.core.dispatcher import Dispatcher
from numba.core.registry import CPUDispatcher


class _Library(JITCodeLibrary):  # type: ignore[misc]
    """Code that is optimised where it is used, with all that it is linked from."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout


class PartLibrary(_Library):
    """The code of a part, as it was lowered."""

    def finalize(self) -> None:
        """Nothing is done before the entry is linked."""
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """There is no machine code."""
        return 0


class EntryLibrary(_Library):
    """The code of a kernel that Python calls, and of all its parts."""

    def finalize(self) -> None:
        """Link the parts of parts as well, then go on as numba does."""
        self._linking_libraries = list(_reached(self._linking_libraries))
        super().finalize()


def _reached(libraries: list[Any]) -> Iterator[Any]:
    waiting, seen = list(libraries), set()
    while waiting:
        library = waiting.pop()
        if library not in seen:
            seen.add(library)
            yield library
            if isinstance(library, PartLibrary):
                waiting += library._linking_libraries


class PartCompiler(compiler.Compiler):  # type: ignore[misc]
    """numba's own steps, into a PartLibrary."""

    def define_pipelines(self) -> Any:
        """The default ones."""
        state = self.state
        state.library = PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = state.flags.no_cpython_wrapper = state.flags.no_cfunc_wrapper = True
        return super().define_pipelines()


class EntryCompiler(compiler.Compiler):  # type: ignore[misc]
    """numba's own steps, into an EntryLibrary."""

    def define_pipelines(self) -> Any:
        """The default ones."""
        state = self.state
        state.library = EntryLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        state.flags.no_cfunc_wrapper = True
        return super().define_pipelines()


class Part(CPUDispatcher):  # type: ignore[misc]
    """A function that kernels call. Called from Python, it is compiled as a kernel of its own."""

    def add_overload(self, cres: Any) -> None:
        """Make it known to kernels, not to Python."""
        cres = cres._replace(entry_point=(self, cres.signature))
        self.targetctx.insert_user_function(cres.entry_point, cres.fndesc, [cres.library])
        self.overloads[tuple(cres.signature.args)] = cres

    def _compile_for_args(self, *args: Any, **kws: Any) -> Any:
        raise TypeError("part called")
