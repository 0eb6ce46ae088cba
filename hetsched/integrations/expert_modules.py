"""The expert modules of a transformers model, and switching what computes them.

Every class decorated with transformers' `use_experts_implementation` asks its own `config` which implementation to use.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ..errors import InputError
from ..packed import parameter_names

IMPLEMENTATION = "hetsched"
_SETTING = "_experts_implementation_internal"  # what transformers reads and set_experts_implementation writes


def expert_modules(model: torch.nn.Module) -> list[Any]:
    """Every expert module in order of definition.

    Raises InputError for a model without any, for one with routed experts that transformers does not dispatch, and for
    an expert class without what the engine needs, named.
    """
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"{model!r:.80} is no model; give one of transformers, or a path to hetsched.load")
    for name, module in model.named_modules():
        if is_undispatched(name, module):
            raise InputError(
                f"{name} is a {type(module).__name__}, which lacks transformers' use_experts_implementation; "
                f"{type(model).__name__} is not supported through this door"
            )
    found = [module for module in model.modules() if is_expert_module(module)]
    if not found:
        raise InputError(
            f"{type(model).__name__} has no routed experts that transformers dispatches; "
            "hetsched needs a Mixture-of-Experts model"
        )
    for module in found:
        parameter_names(module)
    return found


def is_expert_module(module: torch.nn.Module) -> bool:
    """Whether transformers' experts interface dispatches this module."""
    return all(hasattr(module, name) for name in ("has_gate", "is_transposed", "num_experts", "config"))


def is_undispatched(name: str, module: torch.nn.Module) -> bool:
    """Whether this looks like routed experts that compute themselves: by class name, or a list called experts."""
    if is_expert_module(module):
        return False
    kind = type(module).__name__
    several = isinstance(module, (torch.nn.ModuleList, torch.nn.ModuleDict)) and len(module) > 1
    return (kind.endswith("Experts") and "Shared" not in kind) or (several and name.split(".")[-1] == "experts")


class SelectedName(str):
    """The implementation's name where attach() chose it.

    A copied config keeps the mark, which tells a module made after attach from one of a model that was loaded with
    experts_implementation="hetsched". `loaded_as`: identity of a config that asked for hetsched by itself, else None.
    """

    loaded_as: int | None = None


def own_forward(module: Any) -> Any:
    """The class's eager forward, below the dispatch."""
    return type(module).forward.__wrapped__


class Selection:
    """The configs that were told to use hetsched, and what they used before."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[Any, Any]] = {}

    def select(self, config: Any) -> None:
        """Make one config use hetsched."""
        if id(config) not in self._before:
            before = getattr(config, _SETTING, None)
            selected = SelectedName(IMPLEMENTATION)
            if before == IMPLEMENTATION and not is_late(config):
                selected.loaded_as = id(config)
            self._before[id(config)] = config, before
            setattr(config, _SETTING, selected)

    def refuse_other_ways(self, modules: Iterable[tuple[int, Any]]) -> None:
        """Raise InputError where a config was told otherwise since, for the first of these (layer, module) it holds."""
        if all(is_selected(config) for config, _ in self._before.values()):
            return
        for layer, module in modules:
            if not is_selected(module.config):
                raise InputError(
                    f"the experts of layer {layer} ({type(module).__name__}) would run outside hetsched, with "
                    f"implementation {selected_name(module.config)!r}; call detach() before changing it"
                )

    def restore(self) -> None:
        """Put every config back."""
        for config, before in self._before.values():
            setattr(config, _SETTING, before)
        self._before.clear()


def is_late(config: Any) -> bool:
    """Whether hetsched was chosen by an attach() that the modules of this config were no part of.

    That is so for copies of an attached model's config, and for a sibling that shares it; not for a sibling that was
    itself loaded with experts_implementation="hetsched".
    """
    setting = getattr(config, _SETTING, None)
    return isinstance(setting, SelectedName) and setting.loaded_as != id(config)


def is_selected(config: Any) -> bool:
    """Whether a config asks for hetsched now, whoever chose it."""
    return getattr(config, _SETTING, None) == IMPLEMENTATION


def selected_name(config: Any) -> str:
    """The implementation that a config asks for now."""
    return str(getattr(config, _SETTING, None))
