"""Placement: which of a model's routed experts are on the GPU, and the share of demand that they meet."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..geometry import MoEGeometry

# Of 1 - (1 - share)^skew: what the most frequent experts of one half of recorded texts met of the other half's demand.
USUAL_SKEW = 1.7  # DeepSeek-V2-Lite, both halves of the same mix of tasks
EVEN_SKEW = 1.0  # every expert as often as any other


@dataclass(frozen=True)
class Placement:
    """Either whole layers or some experts of each. `layers_on_cpu`: of the first so many MoE layers all experts are on
    the CPU.

    `experts_per_layer`: so many of each other layer are on the GPU, None: all. `hit`: the share of a layer's demand
    that these meet. Without a GPU nothing is on it, whatever this says.
    """

    layers_on_cpu: int = 0
    experts_per_layer: int | None = None
    hit: float = 1.0

    def __post_init__(self) -> None:
        if self.layers_on_cpu < 0:
            raise InputError(f"layers on the CPU are {self.layers_on_cpu}; give 0 or more")
        if not 0 <= self.hit <= 1:
            raise InputError(f"a hit share of {self.hit:g} is none; it lies between 0 and 1")
        if self.experts_per_layer is not None and self.experts_per_layer < 0:
            raise InputError(f"experts of a layer on the GPU are {self.experts_per_layer}; give 0 or more")

    @classmethod
    def split(cls, layers_on_cpu: int) -> Placement:
        """Layers apart, as llama.cpp's --n-cpu-moe."""
        return cls(layers_on_cpu=layers_on_cpu)

    @classmethod
    def hot(cls, geometry: MoEGeometry, experts_per_layer: int, skew: float = USUAL_SKEW) -> Placement:
        """The most frequent experts of each layer on the GPU; they meet what `hit_share` says."""
        count = min(max(experts_per_layer, 0), geometry.num_experts)
        return cls(experts_per_layer=count, hit=hit_share(count / geometry.num_experts, skew))

    @property
    def whole(self) -> bool:
        """Whether every expert is on the GPU."""
        return not self.layers_on_cpu and (self.experts_per_layer is None or self.hit >= 1)

    def hits_L(self, geometry: MoEGeometry) -> list[float]:
        """Of each MoE layer: the share of its demand that is met on the GPU. L layers."""
        return [0.0 if layer < self.layers_on_cpu else self.hit for layer in range(geometry.num_layers)]

    def resident_L(self, geometry: MoEGeometry) -> list[int]:
        """Of each MoE layer: how many experts are on the GPU. L layers."""
        some = geometry.num_experts if self.experts_per_layer is None else self.experts_per_layer
        return [0 if layer < self.layers_on_cpu else some for layer in range(geometry.num_layers)]


def hit_share(share: float, skew: float = USUAL_SKEW) -> float:
    """The share of demand that the most frequent `share` of a layer's experts meet: 1 - (1 - share)^skew.

    One curve describes both recorded traces at shares from an eighth to three quarters within 6 points of 100; its
    skew differs by model and by how alike the texts are, so it is given as a range where none was measured.
    """
    return float(1 - (1 - min(max(share, 0.0), 1.0)) ** skew)
