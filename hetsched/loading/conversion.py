"""One expert's parameter from the checkpoint tensors that belong to that expert, by transformers' own operations.

An expert can be converted alone where no operation mixes experts: tensors are stacked along the first dimension, and
everything else works along others. Shapes: E experts.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from transformers.core_model_loading import Concatenate, Interleave, MergeModulelist, Transpose

from ..errors import InputError
from .checkpoint import Reader
from .sources import Sources


def converts_alone(sources: Sources) -> bool:
    """Whether each expert can be converted by itself."""
    if sources.converter is None:
        return True
    operations = sources.converter.operations
    return (
        len(sources.targets) == 1
        and (_merges(sources) or all(len(names) == 1 for names in sources.names.values()))
        and all(_keeps_experts_apart(operation, first=number == 0) for number, operation in enumerate(operations))
    )


def read_expert(sources: Sources, reader: Reader, expert: int, model: Any, view: torch.Tensor) -> None:
    """Read the parameter of one expert into its place, `view` [E, ...][expert].

    What is only put together, stacked or concatenated, goes from the mapped file to its place without a stop between.
    Raises InputError where the checkpoint's is of another shape.
    """
    here = view[expert : expert + 1]
    if sources.converter is None:
        return _copy(sources.target, [reader.part(sources.all_names[0], expert)], 1, here)
    operations = sources.converter.operations
    if _merges(sources):  # of one expert, stacking is a new dimension
        values = {p: reader.whole(names[expert])[None] for p, names in sources.names.items()}
        operations = operations[1:]
    else:
        values = {p: reader.part(names[0], expert) for p, names in sources.names.items()}
    if [type(operation) for operation in operations] in ([], [Concatenate]):
        dim = int(operations[0].dim) if operations else 1
        return _copy(sources.target, [values[p] for p in sources.converter.source_patterns if p in values], dim, here)
    values = {pattern: _cast(value, view.dtype) for pattern, value in values.items()}
    return _copy(sources.target, [_converted(sources, values, operations, model, view.shape)], 1, here)


def all_experts(sources: Sources, reader: Reader, model: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Every parameter of these sources at once, by name, as transformers converts them."""
    converter = deepcopy(sources.converter)
    for pattern, names in sources.names.items():
        for name in names:
            converter.add_tensor(sources.target, name, pattern, _cast(reader.whole(name), dtype))
    found = converter.convert(sources.target, model=model, config=model.config)
    return {name: value[0] if isinstance(value, list) else value for name, value in found.items()}


def check_experts(sources: Sources, shape: tuple[int, ...], shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise InputError where the checkpoint has another number of experts than the parameter."""
    for names in sources.names.values():
        found = len(names) if _merges(sources) else shapes[names[0]][0]
        if found != shape[0]:
            raise InputError(f"{sources.target} has {shape[0]} experts and the checkpoint {found} ({names[0]}, ...)")


def copy_parameter(name: str, tensor: torch.Tensor, view: torch.Tensor) -> None:
    """Copy a whole converted parameter to its place. Raises InputError where it is of another shape."""
    _copy(name, [tensor], 1, view)


class OneExpert:
    """Stands for the model where an operation asks for the shape of the parameter that it converts."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._parameter = torch.empty((1, *shape[1:]), device="meta")

    def get_parameter(self, name: str) -> torch.Tensor:
        """The parameter of a model with one expert."""
        return self._parameter


def _converted(
    sources: Sources, values: dict[str, Any], operations: list[Any], model: Any, shape: tuple[int, ...]
) -> torch.Tensor:
    for operation in operations:
        values = operation.convert(
            values,
            source_patterns=sources.converter.source_patterns,
            target_patterns=sources.converter.target_patterns,
            full_layer_name=sources.target,
            model=OneExpert(shape) if type(operation) is Transpose else model,
            config=model.config,
        )
    (value,) = values.values()
    made: torch.Tensor = value[0] if isinstance(value, list) else value
    return made


def _copy(name: str, pieces: list[torch.Tensor], dim: int, view: torch.Tensor) -> None:
    """Copy pieces that lie one after the other along `dim`."""
    found = list(pieces[0].shape)
    found[dim] = sum(piece.shape[dim] for piece in pieces)
    if found != list(view.shape):
        raise InputError(
            f"{name} is {found} in the checkpoint where the model has {list(view.shape)}; "
            "config.json belongs to another checkpoint"
        )
    begin = 0
    for piece in pieces:
        view.narrow(dim, begin, piece.shape[dim]).copy_(piece)
        begin += piece.shape[dim]


def _merges(sources: Sources) -> bool:
    """Whether each tensor is of one expert."""
    return sources.converter is not None and isinstance(sources.converter.operations[0], MergeModulelist)


def _keeps_experts_apart(operation: Any, *, first: bool) -> bool:
    if type(operation) is MergeModulelist:
        return first and int(operation.dim) == 0
    if type(operation) is Transpose:
        return min(int(operation.dim0), int(operation.dim1)) > 0
    return type(operation) in (Concatenate, Interleave) and int(operation.dim) > 0


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Converted before the operations, as transformers does."""
    return tensor.to(dtype)
