"""Static placements: chosen once, never changed; every miss runs on the CPU.

cpu-only is no placement at all; layer-split is llama.cpp's `--n-cpu-moe` (all experts of whole layers on the GPU);
static-frequency is the placement of kTransformers and Fiddler (arXiv 2402.07033, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..policy import Decision, Setting, View
from ..residency import RESIDENT, Residency
from ..types import Demand, ExpertId, Fetch
from .misses import Counts, misses_on_cpu


class CpuOnly:
    """Nothing on the GPU but the dense part."""

    name = "cpu-only"
    family = "static placement"

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """No expert is resident."""
        self._setting = setting
        return ()

    def plan(self, demand: Demand, view: View) -> Decision:
        """Residents on the GPU, the rest on the CPU."""
        return misses_on_cpu(demand, view, self._setting)

    def observe(self, demand: Demand) -> None:
        """A static placement learns nothing."""

    def prefetch(self, demand: Demand, view: View) -> Sequence[Fetch]:
        """Nothing moves."""
        return ()

    def counts(self, experts_TLK: npt.NDArray[np.integer], residency: Residency) -> Counts | None:
        """What the next tokens come to, one a step; see fast_replay.py."""
        here_LE = residency.state_LE >= RESIDENT
        hits_TL = here_LE[np.arange(experts_TLK.shape[1])[:, None], experts_TLK].sum(axis=2)
        return Counts(hits_TL, np.zeros_like(hits_TL), np.zeros_like(hits_TL))


class LayerSplit(CpuOnly):
    """All experts of the last layers, as many whole layers as fit.

    llama.cpp keeps the first N layers' experts on the CPU, so the last ones are resident. Slots that no whole layer
    fills stay empty, as there.
    """

    name = "layer-split"

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The last floor(slots / E) layers."""
        self._setting = setting
        shape = setting.geometry
        whole = min(setting.num_slots // shape.num_experts, shape.num_layers)
        layers = range(shape.num_layers - whole, shape.num_layers)
        return [ExpertId(layer, e) for layer in layers for e in range(shape.num_experts)]


class StaticFrequency(CpuOnly):
    """The most frequent (layer, expert) pairs of a calibration trace; without one, experts spread over the layers."""

    name = "static-frequency"

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """Pairs by descending frequency."""
        self._setting = setting
        return most_frequent(setting)


def most_frequent(setting: Setting) -> list[ExpertId]:
    """All experts by descending calibration frequency; without calibration, expert by expert over all layers."""
    shape = setting.geometry
    if setting.frequency_LE is None:
        return [ExpertId(layer, e) for e in range(shape.num_experts) for layer in range(shape.num_layers)]
    order = np.argsort(-setting.frequency_LE.reshape(-1), kind="stable")
    return [ExpertId(*divmod(int(flat), shape.num_experts)) for flat in order]
