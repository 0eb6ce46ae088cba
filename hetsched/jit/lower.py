"""How parts are lowered: they are handed tuples by pointer, and take from a tuple only what they ask for.

numba hands a tuple to a function as all the numbers in it, and copies it whole for each thing that is taken from it.
A board comes to two hundred numbers, and most of a kernel's code, before it is optimised, consists of their copies.

A pointer leads to where the caller keeps the tuple; it keeps it, and what is in it, until the call returns.
"""

from __future__ import annotations

from typing import Any

from llvmlite.ir.instructions import CallInstr, LoadInstr, StoreInstr
from numba.core import cgutils, ir, lowering, types
from numba.core.base import user_function
from numba.core.compiler_machinery import register_pass
from numba.core.datamodel import PrimitiveModel, register_default
from numba.core.typed_passes import NativeLowering
from numba.core.types.containers import BaseNamedTuple, BaseTuple

REACH = 100  # instructions back to the load of an argument


class ByPointer(types.Type):
    """Where a tuple is."""

    def __init__(self, pointee: Any) -> None:
        self.pointee = pointee
        super().__init__(f"ByPointer({pointee})")


@register_default(ByPointer)
class _Model(PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, its_type: ByPointer) -> None:
        super().__init__(manager, its_type, manager[its_type.pointee].get_value_type().as_pointer())


def part_function(described: Any, libraries: Any) -> Any:
    """numba's code of a call, of a part that is described with its tuples by pointer."""
    call = user_function(described, libraries)

    def handing(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        handed = [
            _place(builder, value) if isinstance(argument, ByPointer) else value
            for argument, value in zip(described.argtypes, arguments, strict=True)
        ]
        return call(context, builder, signature, handed)

    handing.libs = call.libs  # type: ignore[attr-defined]
    return handing


def _place(builder: Any, value: Any) -> Any:
    """Where the value was read from, if nothing was written since, else a new place."""
    if isinstance(value, LoadInstr):
        for instruction in builder.block.instructions[: -REACH - 1 : -1]:
            if instruction is value:
                return value.operands[0]
            if isinstance(instruction, (StoreInstr, CallInstr)):
                break
    return cgutils.alloca_once_value(builder, value)


class _Lower(lowering.Lower):  # type: ignore[misc]
    """numba's, with elements of tuples read one by one."""

    def lower_expr(self, result: Any, expression: Any) -> Any:
        """As numba's."""
        if expression.op in ("getattr", "static_getitem") and expression.value.name not in self._blk_local_varmap:
            index = _index(self.typeof(expression.value.name), expression)
            if index is not None:
                return self._element(expression.value.name, index, result)
        return super().lower_expr(result, expression)

    def _element(self, name: str, index: int, result: Any) -> Any:
        kind = self.typeof(name)[index]
        place = cgutils.gep_inbounds(self.builder, self.getvar(name), 0, index)
        value = self.builder.load(place)
        self.incref(kind, value)
        return self.context.cast(self.builder, value, kind, result)


def _index(kind: Any, expression: Any) -> int | None:
    """Which element of a tuple an expression asks for; None where it is something else."""
    if expression.op == "static_getitem":
        is_one = isinstance(kind, BaseTuple) and isinstance(expression.index, int)
        return expression.index % len(kind) if is_one else None
    if isinstance(kind, BaseNamedTuple) and expression.attr in kind.fields:
        return int(kind.fields.index(expression.attr))
    return None


class _PartLower(_Lower):
    """The same, with tuples handed by pointer."""

    def __init__(self, context: Any, library: Any, described: Any, *more: Any, **named: Any) -> None:
        described.argtypes = tuple(
            ByPointer(argument) if isinstance(argument, BaseTuple) else argument for argument in described.argtypes
        )
        self._borrowed: set[str] = set()
        super().__init__(context, library, described, *more, **named)

    def extract_function_arguments(self) -> Any:
        """As numba's; `fnargs` are values."""
        self._handed = list(super().extract_function_arguments())
        self.fnargs = [
            self.builder.load(handed) if isinstance(argument, ByPointer) else handed
            for argument, handed in zip(self.fndesc.argtypes, self._handed, strict=True)
        ]
        return self.fnargs

    def lower_inst(self, instruction: Any) -> None:
        """As numba's; a tuple that is handed in and never assigned anew stays where it is."""
        if isinstance(instruction, ir.Assign) and isinstance(instruction.value, ir.Arg):
            name, index = instruction.target.name, instruction.value.index
            if isinstance(self.fndesc.argtypes[index], ByPointer) and self._is_assigned_once(name):
                self.varmap[name] = self._handed[index]
                self._singly_assigned_vars.discard(name)
                self._borrowed.add(name)
                return
        super().lower_inst(instruction)

    def _is_assigned_once(self, name: str) -> bool:
        assigned = [i for block in self.blocks.values() for i in block.find_insts(ir.Assign) if i.target.name == name]
        return len(assigned) == 1

    def delvar(self, name: str) -> None:
        """As numba's; what is borrowed is the caller's to give up."""
        if name not in self._borrowed:
            super().delvar(name)


@register_pass(mutates_CFG=True, analysis_only=False)
class EntryLowering(NativeLowering):  # type: ignore[misc]
    """numba's pass for an entry."""

    _name, lowering_class = "hetsched_entry_lowering", _Lower


@register_pass(mutates_CFG=True, analysis_only=False)
class PartLowering(NativeLowering):  # type: ignore[misc]
    """numba's pass for a part."""

    _name, lowering_class = "hetsched_part_lowering", _PartLower


def lowered_by(passes: Any, lowering_pass: Any) -> Any:
    """numba's passes with another one in place of its lowering."""
    passes.passes = [(lowering_pass if found is NativeLowering else found, about) for found, about in passes.passes]
    passes.finalize()
    return passes
