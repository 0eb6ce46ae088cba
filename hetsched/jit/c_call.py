"""Kernels as a C function of one pointer, for whoever has no interpreter: a stream's host node, a thread of C.

The function needs neither the interpreter's lock nor any of its objects. What a kernel is called with lies in a block
of 64-bit words, as numba hands it over, tuples element by element; only what reads them is compiled, in milliseconds,
and the kernels are those that Python calls. From Python it is the shorter way, too: numba looks at each array of each
tuple at every call.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, TypeAlias

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from .parts import Entry

Words: TypeAlias = npt.NDArray[np.int64]
Call: TypeAlias = tuple[Any, tuple[Any, ...]]  # a kernel and its arguments
FINE = 0  # numba's code for a kernel that came to its end
FAILED = -1  # in place of what a kernel returns that raised
WORD = ir.IntType(64)
C_TYPE = ir.FunctionType(WORD, [WORD.as_pointer()])
PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)  # lets go of the interpreter's lock, as kernels do
_LIBRARIES: list[Any] = []  # code lives as long as the process
_COUNT = itertools.count()


class CFunction:
    """`int64_t f(const int64_t *words)` at `address`, and its `words`; calling this object calls it with them.

    All kernels run, one after the other; the result is the first that is not 0, FAILED for one that raised. `given`:
    the words of each kernel's arguments, which may be changed between calls. Lives as long as it may be called.
    """

    def __init__(self, *calls: Call) -> None:
        from . import types_of

        self.calls: tuple[Call, ...] = calls  # whose arrays live as long as this
        self.given: list[Words] = [np.array([*_words_of(arguments)], np.int64) for _, arguments in calls]
        self.address = _chain()
        code = [_reader(entry, types_of(*arguments)) for entry, arguments in calls]
        pairs = zip(code, [words.ctypes.data for words in self.given], strict=True)
        self.words: Words = np.array([len(calls), *itertools.chain(*pairs)], np.int64)
        self._where = self.words.ctypes.data
        self.call: Callable[[], int] = partial(PROTOTYPE(self.address), self._where)  # as this object, without a frame

    @property
    def place(self) -> tuple[int, int]:
        """What a kernel calls it by, see called(): its address and that of its words. This object must outlive that."""
        return self.address, self._where

    def give(self, kernel: int, arguments: tuple[Any, ...]) -> None:
        """From now on call this kernel with other arguments, of the same types."""
        self.calls = (*self.calls[:kernel], (self.calls[kernel][0], arguments), *self.calls[kernel + 1 :])
        self.given[kernel][:] = [*_words_of(arguments)]

    def __call__(self) -> int:
        """Call it."""
        return self.call()


@intrinsic  # type: ignore[untyped-decorator]
def called(context: Any, address: int, where: int) -> Any:
    """In a kernel: call the C function at an address with the words at another; what it returns.

    So that a loop is compiled once for whatever it calls.
    """

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = builder.inttoptr(arguments[0], C_TYPE.as_pointer())
        return builder.call(code, [builder.inttoptr(arguments[1], WORD.as_pointer())])

    return types.int64(types.int64, types.int64), generate


def _words_of(argument: Any) -> Iterator[int]:
    """An argument as kernels take it: of an array who counts it (nobody), its sizes, address, shape and strides."""
    if isinstance(argument, tuple):
        for element in argument:
            yield from _words_of(element)
    elif isinstance(argument, np.ndarray):
        yield from (0, 0, argument.size, argument.itemsize, argument.ctypes.data)
        yield from argument.shape
        yield from argument.strides
    elif isinstance(argument, float):
        yield struct.unpack("q", struct.pack("d", argument))[0]
    else:
        yield int(argument)


@cache
def _chain() -> int:
    """The address of what calls pairs of code and words, so many as the first word says."""

    def body(builder: Any, module: Any, words: Any) -> Any:
        result = cgutils.alloca_once_value(builder, WORD(0))
        with cgutils.for_range(builder, builder.load(words)) as loop:
            at = builder.add(builder.shl(loop.index, WORD(1)), WORD(1))
            code = builder.inttoptr(builder.load(builder.gep(words, [at])), C_TYPE.as_pointer())
            given = builder.load(builder.gep(words, [builder.add(at, WORD(1))]))
            found, before = builder.call(code, [builder.inttoptr(given, WORD.as_pointer())]), builder.load(result)
            builder.store(builder.select(builder.icmp_signed("==", before, WORD(0)), found, before), result)
        return builder.load(result)

    return int(_compiled(body))


@cache
def _reader(entry: Entry, types: tuple[Any, ...]) -> int:
    """The address of what calls one kernel with the arguments that it finds as words."""
    entry.compile(types)
    made, convention = entry.overloads[types], cpu_target.target_context.call_conv

    def body(builder: Any, module: Any, words: Any) -> Any:
        symbol = f"{module.name} kernel"
        llvm.add_symbol(symbol, made.library.get_pointer_to_function(made.fndesc.mangled_name))
        described = convention.get_function_type(made.signature.return_type, made.signature.args)
        kernel = ir.Function(module, described, symbol)
        answer, error, *asked = kernel.args
        value_at, error_at = (cgutils.alloca_once_value(builder, to.type.pointee(None)) for to in (answer, error))
        found = [builder.load(builder.gep(words, [WORD(place)])) for place in range(len(asked))]
        given = [_as(builder, word, argument.type) for word, argument in zip(found, asked, strict=True)]
        code = builder.call(kernel, [value_at, error_at, *given])
        value = builder.load(value_at)
        whole = value if value.type == WORD else WORD(0)
        return builder.select(builder.icmp_signed("==", code, code.type(FINE)), whole, WORD(FAILED))

    return int(_compiled(body))


@global_compiler_lock  # type: ignore[untyped-decorator]
def _compiled(body: Callable[[Any, Any, Any], Any]) -> int:
    """The address of a function from words to a word."""
    name = f"hetsched_c_{next(_COUNT)}"
    library = cpu_target.target_context.codegen().create_library(name)
    module = library.create_ir_module(name)
    function = ir.Function(module, C_TYPE, name)
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(body(builder, module, function.args[0]))
    library.add_ir_module(module)
    library.finalize()
    _LIBRARIES.append(library)
    return int(library.get_pointer_to_function(name))


def _as(builder: Any, word: Any, kind: Any) -> Any:
    """A word as a pointer, a float or a smaller integer."""
    if isinstance(kind, ir.PointerType):
        return builder.inttoptr(word, kind)
    if isinstance(kind, ir.DoubleType):
        return builder.bitcast(word, kind)
    return word if kind == WORD else builder.trunc(word, kind)
