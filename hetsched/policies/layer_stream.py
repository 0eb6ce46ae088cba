"""layer-stream: nothing is kept; every active expert is copied when it is used.

What accelerate's CPU offload and AirLLM do, expert by expert: a layer's weights come when the layer runs and go when it
has run. Slots are staging room. A slot cannot serve twice within a layer, so where a layer asks for more than there are
slots, the rest runs on the CPU (there it would wait for room).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..policy import Kernelled, Setting, Traits
from ..types import ExpertId

if TYPE_CHECKING:
    from .compiled import PolicyKernels


class LayerStream(Kernelled):
    """Every expert is copied at every use. In a model of one MoE layer, what two steps in a row want is copied once."""

    name = "layer-stream"
    traits = Traits(family="streaming")

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """Nothing is there."""
        return ()

    def kernels(self) -> PolicyKernels:
        """Give up what the last layer used, fetch what this one asks for."""
        from .static_kernels import STREAM

        return STREAM
