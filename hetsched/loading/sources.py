"""Which tensors of a checkpoint make up each parameter, by transformers' own renamings and converters.

The steps are those of transformers.core_model_loading.convert_and_load_state_dict_in_model, on names alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key


@dataclass
class Sources:
    """Checkpoint tensors that are converted together.

    `target`: the parameter they make, the first where there are several. `converter`: transformers' WeightConverter,
    None where the tensor is the parameter. `names`: checkpoint names by source pattern, in the order of the experts.
    """

    target: str
    converter: Any = None
    names: dict[str, list[str]] = field(default_factory=dict)

    @property
    def targets(self) -> list[str]:
        """All parameters that come of these tensors."""
        if self.converter is None:
            return [self.target]
        first, *others = self.converter.target_patterns
        return [self.target, *(self.target.replace(first, other) for other in others)]

    @property
    def all_names(self) -> list[str]:
        """Every checkpoint tensor among them."""
        return [name for names in self.names.values() for name in names]


@dataclass(frozen=True)
class Mapping:
    """How a checkpoint becomes a model: the sources of its parameters, and the conversions that were of use."""

    sources: list[Sources]
    conversions: list[Any]


def mapping_of(model: Any, names: Iterable[str]) -> Mapping:
    """What each checkpoint tensor is for; those that the model, which may be on meta, has no place for are left out."""
    conversions = get_model_conversion_mapping(model, None, None)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    parameters, prefix = model.state_dict(), model.base_model_prefix
    found: dict[str, Sources] = {}
    for name in sorted(names, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, parameters)
        if target not in parameters and name in parameters:
            target, pattern = rename_source_key(name, [], [], prefix, parameters)
        if target not in parameters:
            continue
        sources = found.setdefault(target, Sources(target, by_pattern[pattern] if pattern is not None else None))
        sources.names.setdefault(pattern or name, []).append(name)
    return Mapping(list(found.values()), [entry for entry in conversions if entry.was_used()])
