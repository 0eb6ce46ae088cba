"""What multiplies by the weights of a model's linear modules: torch, or our own product where that is faster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from ..errors import InputError, UnknownNameError, known_as
from ..machine.profile import HardwareProfile
from .dense_linear import Key, dense_linears

NAMES = ("auto", "torch", "dots")
MOST = 8  # tokens up to which "dots" is taken where it was asked for


class DenseKernel(NamedTuple):
    """Its name, why it was taken, and up to how many tokens by shape and dtype of a weight."""

    name: str
    reason: str
    most: Mapping[Key, int]


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


def dense_kernel_for(spec: str | None, model: torch.nn.Module, cpu_only: bool, eager: bool) -> DenseKernel:
    """The kernel that `spec` names; None: "auto" without a GPU, and torch's where experts are to be eager's by bits."""
    name = None if spec is None else known_as(spec, NAMES)
    if name == "torch" or not cpu_only:
        return DenseKernel("torch", "as it was asked for" if spec else "the dense part is not this CPU's", {})
    if name is None and eager:
        return DenseKernel("torch", "experts are computed as transformers does, bit for bit", {})
    weights: dict[Key, list[torch.Tensor]] = {}
    for module, key in dense_linears(model):
        weights.setdefault(key, []).append(module._parameters["weight"])  # type: ignore[arg-type]
    if name == "dots":
        return DenseKernel("dots", "as it was asked for", dict.fromkeys(weights, MOST))
    from ..measure.dense_kernels import choose_dense

    chosen = choose_dense(weights)
    return DenseKernel("dots" if any(chosen.most.values()) else "torch", chosen.reason, chosen.most)
