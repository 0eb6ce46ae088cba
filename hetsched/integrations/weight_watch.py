"""WeightWatch: has anybody written to the experts' weights, or given them other memory?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ..errors import InputError
from ..packed import parameter_names


class WatchedParameter(NamedTuple):
    """One parameter, looked up anew each time, and where its numbers were when its layer was taken over."""

    layer: int
    parameters: Mapping[str, torch.Tensor | None]
    name: str
    address: int


class WeightWatch:
    """The version counters of adopted parameters, which torch advances with every write that it sees.

    It does not see writes through `.data` or NumPy.
    """

    def __init__(self) -> None:
        self._watched: list[WatchedParameter] = []
        self._versions: list[int] = []

    def watch(self, layer: int, module: Any) -> None:
        """From now on look at this module's experts too."""
        for name in parameter_names(module):
            parameter = module._parameters[name]
            self._watched.append(WatchedParameter(layer, module._parameters, name, parameter.data_ptr()))
            self._versions.append(parameter._version)

    def look(self) -> list[int]:
        """The versions now. Raises InputError for a parameter whose memory is not the adopted one any more."""
        versions = []
        for layer, parameters, name, address in self._watched:
            parameter = parameters.get(name)
            if parameter is None or parameter.data_ptr() != address:
                raise InputError(
                    f"{name} of layer {layer}'s experts was replaced while attached (by .to(), .half(), .data = or "
                    "load_state_dict(assign=True)); call detach(), and hetsched.attach(model, ...) again"
                )
            versions.append(parameter._version)
        return versions

    def changed(self, versions: list[int]) -> list[int]:
        """Layers that were written to since the versions that were seen last."""
        if versions == self._versions:
            return []
        told = zip(self._watched, self._versions, versions, strict=True)
        return sorted({watched.layer for watched, before, now in told if before != now})

    def seen(self, versions: list[int]) -> None:
        """What was written up to these versions is in every copy."""
        self._versions = versions
