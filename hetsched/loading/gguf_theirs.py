"""Architectures whose GGUF files transformers describes itself: its config, and its conversions of dense weights.

Those are hybrids, of which llama.cpp stores more than names otherwise. Their experts are stored as all others' are.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
import transformers
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.integrations.gguf import GGUF_ARCHS, GGUF_CONFIG_ARCHS, get_gguf_config, get_gguf_conversion_mapping

from ..errors import InputError
from .gguf_file import Gguf


def is_theirs(architecture: str) -> bool:
    """Whether transformers describes this architecture."""
    return architecture in GGUF_ARCHS and architecture in GGUF_CONFIG_ARCHS


def their_config(gguf: Gguf) -> Any:
    """Raises InputError for a file without what transformers looks for."""
    counted = {key: len(value) if _is_texts(value) else value for key, value in gguf.metadata.items()}
    try:
        found = get_gguf_config(counted, tuple(gguf.tensors))
    except (KeyError, ZeroDivisionError, TypeError) as error:
        raise InputError(f"{gguf.files[0]} lacks metadata that transformers wants: {error}") from error
    return transformers.AutoConfig.for_model(**found)


class TheirDense:
    """Names and conversions of dense tensors."""

    def __init__(self, gguf: Gguf, model: Any, experts: Iterable[str]) -> None:
        # a copy: looking for names makes marks in these
        entries = deepcopy(get_gguf_conversion_mapping(gguf.architecture, model.config))
        self._converters = [entry for entry in entries if isinstance(entry, WeightConverter)]
        renamings = [entry for entry in entries if isinstance(entry, WeightRenaming)]
        self._by_tensor: dict[str, WeightConverter] = {}
        held, apart = model.state_dict(), set(experts)
        self.sources: dict[str, tuple[str, ...]] = {}
        for name in gguf.tensors:
            target, pattern = rename_source_key(name, renamings, self._converters)
            if target not in held or target in apart:
                continue
            self.sources[target] = (name,)
            if pattern is not None:
                self._by_tensor[name] = next(each for each in self._converters if pattern in each.source_patterns)

    def undone(self, weights: torch.Tensor, name: str) -> torch.Tensor:
        """A tensor's numbers in transformers' order, with what llama.cpp made of them taken back."""
        converter = self._by_tensor.get(name)
        for operation in converter.operations if converter else ():
            (weights,) = operation.convert({"one": weights}, source_patterns=["one"], target_patterns=["one"]).values()
        return weights


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(each, str) for each in value[:1])
