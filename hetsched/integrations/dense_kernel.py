"""What multiplies by the weights of a model's linear modules: torch, or our own product where that is faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..cpu_kernels.packed.kernels import PackedKernel
from ..engine.cpu_only import CpuOnlyEngine
from ..errors import InputError, UnknownNameError, known_as
from ..machine.profile import HardwareProfile
from ..measure.dense_kernels import Key, choose_dense, choose_many
from .cpu_lane import CpuKernel
from .dense_linear import DenseLinears, Way, dense_linears

NAMES = ("auto", "torch", "packed", "packed-int8")
MOST = 8  # tokens up to which plain weights take our product where it was asked for by name


class DenseKernel(NamedTuple):
    """Its name, why it was taken, and how the linear maps are computed by what their weights are."""

    name: str
    reason: str
    ways: Mapping[Key, Way]

    @property
    def lossless(self) -> bool:
        """Whether it works on weights and activations as they are."""
        return not any(key.packed and way.rounded for key, way in self.ways.items())


class DenseLane:
    """The linear maps of an attached model: `kernel` computes them once put_on() has chosen it."""

    def __init__(self, wanted: str | None, engine: Any, experts: CpuKernel) -> None:
        self.kernel = DenseKernel("torch", "not yet chosen", {})
        self._wanted, self._cpu_only, self._experts = wanted, isinstance(engine, CpuOnlyEngine), experts
        self._linears = DenseLinears()

    def put_on(self, model: torch.nn.Module) -> None:
        """Choose, and give the model's linear modules a forward of ours where that is to be."""
        eager, lossless = self._experts.choice is None, self._experts.lossless
        self.kernel = dense_kernel_for(self._wanted, model, self._cpu_only, eager, lossless)
        self._linears.put_on(model, self.kernel.ways)

    def take_off(self) -> None:
        """The modules are called as their class says again. May be called twice."""
        self._linears.take_off()


def check_dense_kernel(spec: str | None, hardware: HardwareProfile, cpu_only: bool) -> None:
    """Raise InputError where `spec` names no kernel, or one that would not be used."""
    if spec is None:
        return
    name = known_as(spec, NAMES)
    if name not in NAMES:
        raise UnknownNameError("dense kernel", spec, NAMES)
    if name != "torch" and not cpu_only:
        raise InputError(
            f"dense_kernel {name} was given, which is for this machine's CPU alone, and {hardware.name} has a GPU; "
            "drop one of the two"
        )


def dense_kernel_for(
    spec: str | None, model: torch.nn.Module, cpu_only: bool, eager: bool, lossless: bool = True
) -> DenseKernel:
    """The kernel that `spec` names; None: "auto" without a GPU, and torch's where experts are to be eager's by bits.

    Packed weights take our products wherever that is not torch's. `lossless`: of the experts' kernel, as which "auto"
    takes activations.
    """
    name = None if spec is None else known_as(spec, NAMES)
    if name == "torch" or not cpu_only:
        return DenseKernel("torch", "as it was asked for" if spec else "the dense part is not this CPU's", {})
    if name is None and eager:
        return DenseKernel("torch", "experts are computed as transformers does, bit for bit", {})
    weights: dict[Key, list[torch.Tensor]] = {}
    for module, key in dense_linears(model):
        weights.setdefault(key, []).append(module._parameters["weight"])  # type: ignore[arg-type]
    rounded = name == "packed-int8" or (not lossless and name != "packed")
    ways = _packed_ways(weights, rounded)
    plain = {key: held for key, held in weights.items() if not key.packed}
    if name in ("packed", "packed-int8"):
        return DenseKernel(name, "as it was asked for", {**ways, **dict.fromkeys(plain, Way(MOST))})
    return _measured(ways, plain)


def _packed_ways(weights: Mapping[Key, Sequence[torch.Tensor]], rounded: bool) -> dict[Key, Way]:
    packed = [key for key in weights if key.packed]
    if not packed:
        return {}
    largest = max(packed, key=lambda key: key.num_bytes)
    many = choose_many(PackedKernel(rounded=rounded), weights[largest][0])
    return dict.fromkeys(packed, Way(many.few, many, rounded))


def _measured(ways: Mapping[Key, Way], plain: Mapping[Key, Sequence[torch.Tensor]]) -> DenseKernel:
    chosen = choose_dense(plain)
    taken = {**ways, **{key: Way(most) for key, most in chosen.most.items() if most}}
    said = [chosen.reason] if plain else []
    if ways:
        way = next(iter(ways.values()))
        formats = ", ".join(dict.fromkeys(key.packed for key in ways))
        blocks = "the activations' dtype" if way.many is not None and way.many.half else "fp32"
        said.insert(0, f"{formats} where they lie, for more than {way.most} tokens in blocks of {blocks}")
    rounded = any(way.rounded for way in ways.values())
    name = ("packed-int8" if rounded else "packed") if taken else "torch"
    return DenseKernel(name, "; ".join(said) or chosen.reason, taken)
