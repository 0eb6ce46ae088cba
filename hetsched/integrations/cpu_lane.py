"""What computes experts on the CPU lane: as transformers does, or the fastest lossless kernel by measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from ..cpu_kernels import Choice, ChosenKernel, check_choice, choice_in, parse_choice
from ..cpu_kernels.packed_ways import UNMEASURED
from ..engine.expert_ffn import Linear
from ..errors import InputError, known_as
from ..geometry import MoEGeometry
from ..machine.profile import HardwareProfile
from ..packed import layout_of, parameter_names

_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class CpuKernel(NamedTuple):
    """A product of activations and weights for the CPU lane, and why it was taken.

    `choice`: the kernels behind it; None for transformers' own operations.
    """

    name: str
    reason: str
    linear: Linear
    choice: Choice | None = None

    @property
    def lossless(self) -> bool:
        """Whether it works on weights and activations as they are."""
        return self.choice is None or self.choice.lossless


EAGER = CpuKernel("eager", "as transformers computes it, bit for bit", F.linear)


def check_cpu_kernel(spec: str | None, dtype: str | None) -> None:
    """Raise InputError where `spec` names no kernel that runs here for weights of `dtype` (None: of any dtype).

    UnknownNameError lists the kernels.
    """
    if spec is not None and spec.lower() not in ("eager", "auto"):
        check_choice(spec, list(_DTYPES.values()) if dtype is None else [dtype])


def cpu_kernel_for(
    spec: str | None, geometry: MoEGeometry, hardware: HardwareProfile, emulated: bool, modules: Sequence[Any] = ()
) -> CpuKernel:
    """The kernel that `spec` names; None: eager where times are emulated, else "auto".

    `modules`: one expert module a layer; packed experts are measured as they are. Raises UnknownNameError, which lists
    the kernels.
    """
    spec, packed = spec if spec is None else known_as(spec, ("eager", "auto")), _are_packed(modules)
    if spec == "eager" or (spec is None and (emulated or geometry.dtype == "fp32")):
        return EAGER
    if spec not in (None, "auto"):
        return _of(ChosenKernel(parse_choice(str(spec), geometry.dtype, packed)))
    if packed:
        return _of(ChosenKernel(_packed_choice(geometry, hardware, modules)))
    from ..measure.cpu_kernels import attach_kernel

    return _of(attach_kernel(geometry, hardware))


def cpu_only_kernel_for(
    spec: str | None, geometry: MoEGeometry, hardware: HardwareProfile, modules: Sequence[Any]
) -> CpuKernel:
    """As cpu_kernel_for, on a machine without a GPU: measured on the model's own experts where they are loaded."""
    if (
        (spec is not None and spec.lower() != "auto")
        or geometry.dtype == "fp32"
        or choice_in(hardware, geometry.dtype)
        or _are_packed(modules)
        or not _are_loaded(modules)
    ):
        return cpu_kernel_for(spec, geometry, hardware, emulated=False, modules=modules)
    from ..measure.layer_kernels import choose_layer_kernels

    return _of(ChosenKernel(choose_layer_kernels(modules[0], geometry.dtype)))


def _of(chosen: ChosenKernel) -> CpuKernel:
    return CpuKernel(chosen.name, chosen.choice.reason, chosen.linear, chosen.choice)


def _packed_choice(geometry: MoEGeometry, hardware: HardwareProfile, modules: Sequence[Any]) -> Choice:
    """The ways to compute packed experts, as the profile records them, else measured."""
    recorded = choice_in(hardware, geometry.dtype, packed=True)
    if recorded is not None:
        return recorded
    if not _are_loaded(modules):
        return parse_choice(UNMEASURED, geometry.dtype, packed=True)
    from ..measure.layer_kernels import choose_layer_kernels

    return choose_layer_kernels(modules[0], geometry.dtype)


def _are_packed(modules: Sequence[Any]) -> bool:
    return bool(modules) and layout_of(modules[0]).is_packed


def _are_loaded(modules: Sequence[Any]) -> bool:
    return bool(modules) and not any(getattr(modules[0], name).is_meta for name in parameter_names(modules[0]))


def refuse_decisions(policy: Any, solver: Any, forecaster: Any, learned: Any, hardware: HardwareProfile) -> None:
    """Raise InputError where one of these was asked for and, without a GPU, there is nothing to decide."""
    asked = (
        ("policy", policy, ("hetsched", "cpu-only")),
        ("solver", solver, ("exact", "all-cpu")),
        ("forecaster", forecaster, ()),
        ("learned", learned, ()),
    )
    for option, spec, idle in asked:
        if spec is not None and not (isinstance(spec, str) and spec.lower() in idle):
            name = spec if isinstance(spec, str) else getattr(spec, "name", spec)
            raise InputError(
                f"{option} {name} was given, and {hardware.name} has no GPU, so there is nothing to decide; drop one "
                "of the two"
            )


def dtype_name(dtype: torch.dtype) -> str:
    """The project's name of an expert weight's dtype. Raises InputError for one that no lane computes."""
    if dtype not in _DTYPES:
        raise InputError(f"experts are stored as {dtype}; load the model as float32, bfloat16 or float16")
    return _DTYPES[dtype]
