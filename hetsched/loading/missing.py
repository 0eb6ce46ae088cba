"""Weights that a checkpoint lacks or holds in another shape, from names and headers alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ..errors import InputError
from .checkpoint import TensorHeader
from .packed_tensors import PackedTensor
from .sources import Sources

SHOWN = 3  # names in a message


def missing_weights(model: Any, held: Collection[str]) -> list[str]:
    """Names that `model`, which may be on meta, would fill at random: not among `held` nor tied to any that is.

    Buffers that are not saved are no weights, and neither is what the model's class says may be absent.
    """
    tied: dict[int | str, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), set()).add(name)
    groups = {name: group for group in tied.values() for name in group}
    for target, source in model.all_tied_weights_keys.items():
        both = groups.get(target, {target}) | groups.get(source, {source})
        groups |= dict.fromkeys(both, both)
    may_lack = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    return [
        name
        for name in model.state_dict()
        if groups.get(name, {name}).isdisjoint(held) and not any(pattern.search(name) for pattern in may_lack)
    ]


def refuse_missing(folder: Path, missing: Iterable[str]) -> None:
    """Raise InputError, with the first names and their number, where weights are missing."""
    names = sorted(missing)
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise InputError(
            f"{folder} lacks {len(names)} of the model's weights: {', '.join(names[:SHOWN])}{more}; the checkpoint is "
            "incomplete, or config.json belongs to another: download them again, together"
        )


def refuse_other_shapes(
    model: Any, sources: Iterable[Sources], tensors: dict[str, TensorHeader | PackedTensor]
) -> None:
    """Raise InputError, with the file, where a tensor that is read as it is has another shape than in the model."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for found in sources:
        if found.converter is not None:
            continue
        for name in found.all_names:
            if (stored := tensors[name]).shape != shapes[found.target]:
                raise InputError(
                    f"{name} is {list(stored.shape)} in {stored.file} where the model has "
                    f"{list(shapes[found.target])}; config.json belongs to another checkpoint"
                )
