"""MoEGeometry: the shape of a model as far as scheduling is concerned."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import InputError
from .checks import MAX_ALL_EXPERTS, MAX_EXPERTS, MAX_LAYERS, MAX_PARAMS, MAX_WIDTH, require_whole
from .stored import stored_bytes, stored_name

_MOST = {
    "num_layers": MAX_LAYERS,
    "num_experts": MAX_EXPERTS,
    "top_k": MAX_EXPERTS,
    "hidden": MAX_WIDTH,
    "ffn": MAX_WIDTH,
    "matrices": 8,
}
_MOST_OR_NONE = {"dense_params": MAX_PARAMS, "other_params": MAX_PARAMS}


@dataclass(frozen=True)
class MoEGeometry:
    """Shape of a Mixture-of-Experts model.

    `num_layers` counts MoE layers only. `matrices`: weight matrices per expert (3 gated, 2 ungated). `bias`: whether
    each has one. `dtype`: what experts are stored as, a format's name (see `stored`). `dense_params`: weights of the
    rest of one MoE layer that every token uses (attention, norms, router, shared experts). `other_params`: weights
    outside the MoE layers (embeddings, head, layers without experts).
    `expert_bytes_override`: exact bytes, where the weights were seen; else from the shape and dtype. `experts_L`: how
    many experts each layer really has, where layers differ; num_experts is then the largest of these. `expert_bytes_L`:
    likewise bytes of an expert; every slot has room for the largest.
    """

    name: str
    num_layers: int
    num_experts: int
    top_k: int
    hidden: int
    ffn: int
    dtype: str = "bf16"
    matrices: int = 3
    bias: bool = False
    dense_params: int = 0
    other_params: int = 0
    expert_bytes_override: int | None = None
    experts_L: tuple[int, ...] = ()
    expert_bytes_L: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for low, limits in ((1, _MOST), (0, _MOST_OR_NONE)):
            for field, most in limits.items():
                require_whole(getattr(self, field), low, most, f"{field} of {self.name}")
        if self.num_layers * self.num_experts > MAX_ALL_EXPERTS:
            all_experts = f"{self.num_layers} layers of {self.num_experts} experts"
            raise InputError(f"{self.name} has {all_experts}; no model has more than {MAX_ALL_EXPERTS} of them in all")
        if self.top_k > self.num_experts:
            raise InputError(f"top_k {self.top_k} of {self.name} exceeds num_experts {self.num_experts}")
        if self.experts_L and (len(self.experts_L) != self.num_layers or max(self.experts_L) != self.num_experts):
            raise InputError(
                f"experts_L of {self.name} is {self.experts_L}; it needs {self.num_layers} counts, the largest "
                f"{self.num_experts}"
            )
        if self.expert_bytes_L and (len(self.expert_bytes_L) != self.num_layers or min(self.expert_bytes_L) < 1):
            raise InputError(f"expert_bytes_L of {self.name} is not {self.num_layers} numbers of bytes")
        object.__setattr__(self, "dtype", stored_name(self.dtype))
        if not self.seen_bytes:
            self._bytes_by_shape()  # refuses what the format cannot store

    @property
    def seen_bytes(self) -> int:
        """Bytes of the largest expert where weights were seen; 0 where they follow from the shape."""
        return self.expert_bytes_override or max(self.expert_bytes_L, default=0)

    @property
    def bias_params(self) -> int:
        """Biases of one routed expert."""
        return (self.matrices - 1) * self.ffn + self.hidden if self.bias else 0

    @property
    def expert_params(self) -> int:
        """Weights of one routed expert, biases included."""
        return self.matrices * self.hidden * self.ffn + self.bias_params

    @property
    def expert_bytes(self) -> int:
        """Bytes of one routed expert's row, of the largest where layers differ."""
        return self.seen_bytes or self._bytes_by_shape()

    @property
    def total_experts(self) -> int:
        """Routed experts of all layers."""
        return sum(self.experts_L) if self.experts_L else self.num_experts * self.num_layers

    @property
    def total_expert_bytes(self) -> int:
        """Bytes of all routed experts of all layers, as the host stores them."""
        if self.expert_bytes_override or not self.expert_bytes_L:
            return self.all_slots_bytes
        counts_L = self.experts_L or (self.num_experts,) * self.num_layers
        return sum(count * size for count, size in zip(counts_L, self.expert_bytes_L, strict=True))

    @property
    def all_slots_bytes(self) -> int:
        """Bytes of a slot for every routed expert: what shares of the experts are shares of."""
        return self.expert_bytes * self.total_experts

    @property
    def token_expert_bytes(self) -> int:
        """Bytes of the experts that one token is routed to, in all layers."""
        if self.expert_bytes_override or not self.expert_bytes_L:
            return self.top_k * self.expert_bytes * self.num_layers
        return self.top_k * sum(self.expert_bytes_L)

    def slots(self, capacity_bytes: int) -> int:
        """Experts that fit into `capacity_bytes`, at most all of them."""
        return min(int(capacity_bytes) // self.expert_bytes, self.total_experts)

    def with_dtype(self, dtype: str) -> MoEGeometry:
        """The same model with its experts stored as `dtype`."""
        return replace(self, dtype=dtype, expert_bytes_override=None, expert_bytes_L=())

    def _bytes_by_shape(self) -> int:
        try:
            return stored_bytes(self.dtype, self.hidden, self.ffn, self.matrices, self.bias)
        except InputError as error:
            raise InputError(f"experts of {self.name} cannot be {self.dtype}: {error}; choose another format") from None
