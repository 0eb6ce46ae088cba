"""Static placements: chosen once, never changed; every miss runs on the CPU.

cpu-only is no placement at all; layer-split is llama.cpp's `--n-cpu-moe` (all experts of whole layers on the GPU, the
first layers' on the CPU), layer-split-last its mirror image (the last layers' on the CPU, as `--override-tensor` is
often written); static-frequency is the placement of kTransformers and Fiddler (arXiv 2402.07033, section 3.2).
hot-static (hot_static.py) is the same with equal slots for each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..policy import Kernelled, Setting, Traits
from ..types import ExpertId, FloatArray

if TYPE_CHECKING:
    from .compiled import PolicyKernels


class CpuOnly(Kernelled):
    """Nothing on the GPU but the dense part."""

    name = "cpu-only"
    traits = Traits(family="static placement", static=True)

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """No expert is resident."""
        return ()

    def kernels(self) -> PolicyKernels:
        """Residents on the GPU, the rest on the CPU; nothing is learned and nothing moves."""
        from .static_kernels import KERNELS

        return KERNELS


class LayerSplit(CpuOnly):
    """All experts of the last layers, as many whole layers as fit.

    llama.cpp keeps the first N layers' experts on the CPU, so the last ones are resident. Slots that no whole layer
    fills stay empty, as there.
    """

    name = "layer-split"

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The last floor(slots / E) layers."""
        shape = setting.geometry
        whole = min(setting.num_slots // shape.num_experts, shape.num_layers)
        layers = range(shape.num_layers - whole, shape.num_layers)
        return [ExpertId(layer, e) for layer in layers for e in range(shape.num_experts)]


class LayerSplitLast(CpuOnly):
    """All experts of the first layers, as many whole layers as fit; the last ones run on the CPU."""

    name = "layer-split-last"

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The first floor(slots / E) layers."""
        shape = setting.geometry
        whole = min(setting.num_slots // shape.num_experts, shape.num_layers)
        return [ExpertId(layer, e) for layer in range(whole) for e in range(shape.num_experts)]


class StaticFrequency(CpuOnly):
    """The most frequent (layer, expert) pairs of a calibration trace; without one, experts spread over the layers."""

    name = "static-frequency"

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """Pairs by descending frequency."""
        return most_frequent(setting)


def most_frequent(setting: Setting) -> list[ExpertId]:
    """All experts by descending calibration frequency; without calibration, expert by expert over all layers.

    What `start` of a policy may return to fill every slot: the first `num_slots` of them become resident.
    """
    shape = setting.geometry
    if setting.frequency_LE is None:
        return [ExpertId(layer, e) for e in range(shape.num_experts) for layer in range(shape.num_layers)]
    order = np.argsort(-setting.frequency_LE.reshape(-1), kind="stable")
    return [ExpertId(*divmod(int(flat), shape.num_experts)) for flat in order]


def evenly(setting: Setting) -> list[ExpertId]:
    """Every layer's most frequent expert, then every layer's second, and so on: equal shares of any number of slots."""
    ranked: list[list[ExpertId]] = [[] for _ in range(setting.geometry.num_layers)]
    for expert in most_frequent(setting):
        ranked[expert.layer].append(expert)
    return [expert for same_rank in zip(*ranked, strict=True) for expert in same_rank]


def first_kept_longest(experts: Sequence[ExpertId], setting: Setting) -> FloatArray:
    """`keep_LE` for an order of experts: the last leaves first."""
    keep_LE: FloatArray = np.zeros((setting.geometry.num_layers, setting.geometry.num_experts))
    for behind, expert in enumerate(reversed(experts)):
        keep_LE[expert] = behind + 1.0
    return keep_LE
