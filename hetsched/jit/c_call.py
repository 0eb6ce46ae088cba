"""Kernels as a C function of one pointer, for whoever has no interpreter: a stream's host node, a thread of C.

The function needs neither the interpreter's lock nor any of its objects. What kernels are called with lies in a block
of 64-bit words: of an array its address, shape and strides, of a tuple its elements one after the other, of a number
itself. Only this wrapper is compiled, in milliseconds: the kernels are those that Python calls.

From Python too it is the shorter way: numba looks at each array of each tuple at every call.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
from collections.abc import Iterator
from typing import Any, TypeAlias

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from .parts import Entry

Call: TypeAlias = tuple[Any, tuple[Any, ...]]  # a kernel and its arguments
FAILED = -1  # in place of what a kernel returns that raised
WORD = ir.IntType(64)
PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)  # lets go of the interpreter's lock, as kernels do
_ADDRESSES: dict[tuple[Any, ...], int] = {}
_LIBRARIES: list[Any] = []  # code lives as long as the process
_COUNT = itertools.count()


class CFunction:
    """`int64_t f(const int64_t *words)` at `address`, and its `words`; calling this object calls it with them.

    All kernels run, one after the other; the result is the first that is not 0, FAILED for one that raised. The
    arguments are kept alive as long as this object is.
    """

    def __init__(self, *calls: Call) -> None:
        self._calls = calls
        self.address = _address_of(calls)
        arguments = [argument for _, given in calls for argument in given]
        self.words: npt.NDArray[np.int64] = np.array([w for a in arguments for w in _words_of(a)], np.int64)
        self._call = PROTOTYPE(self.address)
        self._where = self.words.ctypes.data

    def __call__(self) -> int:
        """Call it."""
        return int(self._call(self._where))


def _words_of(argument: Any) -> Iterator[int]:
    """An argument as the wrapper reads it."""
    if isinstance(argument, tuple):
        for element in argument:
            yield from _words_of(element)
    elif isinstance(argument, np.ndarray):
        yield argument.ctypes.data
        yield from argument.shape
        yield from argument.strides
    elif isinstance(argument, float):
        yield struct.unpack("q", struct.pack("d", argument))[0]
    else:
        yield int(argument)


def _address_of(calls: tuple[Call, ...]) -> int:
    """The wrapper's code for these kernels and types of arguments, made once a process."""
    from . import types_of

    key = tuple((entry, types_of(*arguments)) for entry, arguments in calls)
    if key not in _ADDRESSES:
        _ADDRESSES[key] = _wrapped(key)
    return _ADDRESSES[key]


@global_compiler_lock  # type: ignore[untyped-decorator]
def _wrapped(calls: tuple[tuple[Entry, tuple[Any, ...]], ...]) -> int:
    name = f"hetsched_c_{next(_COUNT)}"
    context = cpu_target.target_context
    library = context.codegen().create_library(name)
    module = library.create_ir_module(name)
    function = ir.Function(module, ir.FunctionType(WORD, [WORD.as_pointer()]), name)
    builder, places = ir.IRBuilder(function.append_basic_block()), itertools.count()
    result: Any = WORD(0)
    for entry, given in calls:
        entry.compile(given)
        made = entry.overloads[given]
        values = [_value(context, builder, function.args[0], places, kind) for kind in given]
        found = _called(context, builder, module, made, values)
        result = builder.select(builder.icmp_signed("==", result, WORD(0)), found, result)
    builder.ret(result)
    library.add_ir_module(module)
    library.finalize()
    _LIBRARIES.append(library)
    return int(library.get_pointer_to_function(name))


def _called(context: Any, builder: Any, module: Any, made: Any, values: list[Any]) -> Any:
    """The call of one kernel, by a name of its own, and its result as a word."""
    returned, arguments = made.signature.return_type, made.signature.args
    symbol = f"{module.name} {len(module.globals)}"
    llvm.add_symbol(symbol, made.library.get_pointer_to_function(made.fndesc.mangled_name))
    callee = ir.Function(module, context.call_conv.get_function_type(returned, arguments), symbol)
    status, value = context.call_conv.call_function(builder, callee, returned, arguments, values)
    whole = context.cast(builder, value, returned, types.int64) if isinstance(returned, types.Integer) else WORD(0)
    return builder.select(status.is_error, WORD(FAILED), whole)


def _value(context: Any, builder: Any, words: Any, places: Iterator[int], kind: Any) -> Any:
    """An argument of this type, from the next words."""

    def word() -> Any:
        return builder.load(builder.gep(words, [WORD(next(places))]))

    if isinstance(kind, types.BaseTuple):
        return context.make_tuple(
            builder, kind, [_value(context, builder, words, places, element) for element in kind.types]
        )
    if isinstance(kind, types.Array):
        return _array(context, builder, word, kind)
    if isinstance(kind, types.Float):
        return builder.bitcast(word(), context.get_value_type(kind))
    if isinstance(kind, types.Boolean):
        return builder.icmp_signed("!=", word(), WORD(0))
    return word()


def _array(context: Any, builder: Any, word: Any, kind: Any) -> Any:
    """An array that nobody counts references to."""
    array = context.make_array(kind)(context, builder)
    data = builder.inttoptr(word(), array.data.type)
    shape = [word() for _ in range(kind.ndim)]
    strides = [word() for _ in range(kind.ndim)]
    nitems: Any = WORD(1)
    for length in shape:
        nitems = builder.mul(nitems, length)
    array.meminfo, array.parent = array.meminfo.type(None), array.parent.type(None)
    array.data, array.nitems = data, nitems
    array.itemsize = WORD(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    array.shape = _packed(builder, array.shape.type, shape)
    array.strides = _packed(builder, array.strides.type, strides)
    return array._getvalue()


def _packed(builder: Any, kind: Any, values: list[Any]) -> Any:
    packed = ir.Constant(kind, ir.Undefined)
    for i, value in enumerate(values):
        packed = builder.insert_value(packed, value, i)
    return packed
