"""Sight: what a model's forecaster is handed beside ids, hidden states and the next routers' gates, layer by layer.

The engine shows each layer's hidden states; gates are made of them when the forecaster observes the layer, which is
while the lanes work and on the scheduler's clock: they count as decision time beside the lanes. Nothing of it is bound
where no forecaster needs it.

Shapes: T tokens, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..accelerators.base import Event
from ..forecast import LAYERS_AHEAD, MOST_TOKENS, NOTHING, Context
from ..forecast.fed import LIVE
from ..traces.routers import Routers
from ..types import Demand, Float32Array

Bring = Callable[[torch.Tensor], Event]  # a device tensor on its way to the host


class Sight:
    """Contexts of an attached model. `routers` are set once the model is known, where gates are needed.

    Drafts are none of them: whoever drafts tells the engine between steps (Engine.foresee).
    """

    gives = LIVE

    def __init__(self) -> None:
        self.needs: frozenset[str] = frozenset()
        self.routers: Routers | None = None
        self._layer, self._tokens = -1, 0
        self._shown: torch.Tensor | Event | None = None

    def only(self, needs: frozenset[str]) -> Sight:
        """It is looked at for these needs from now on."""
        self.needs = needs
        return self

    def show(self, layer: int, hidden_TH: torch.Tensor, bring: Bring) -> None:
        """One layer's hidden states, of which the last tokens are kept; from a device they set out now."""
        self._layer, self._tokens = layer, len(hidden_TH)
        part_TH = hidden_TH if self._tokens <= MOST_TOKENS else hidden_TH[-MOST_TOKENS:]
        self._shown = part_TH if part_TH.is_cpu else bring(part_TH)

    def of(self, demand: Demand) -> Context:
        """What is known at the layer that was shown last; nothing of another."""
        if self._shown is None or demand.layer != self._layer:
            return NOTHING
        hidden_TH = _numbers(self._shown)
        if self.routers is None or "gates" not in self.needs or self._tokens > MOST_TOKENS:
            return Context(hidden_TH)
        ahead = self.routers.ahead(demand.layer, hidden_TH, LAYERS_AHEAD, len(demand.tokens_E))
        return Context(hidden_TH, ahead)


def _numbers(shown: torch.Tensor | Event) -> Float32Array:
    """float32 [T, H], waited for where it comes from a device."""
    tensor = shown if isinstance(shown, torch.Tensor) else shown.result()
    numbers: Float32Array = tensor.detach().to(torch.float32).numpy()
    return numbers
