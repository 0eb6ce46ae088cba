"""What computes experts on the CPU lane: as transformers does, or the fastest lossless kernel by measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from ..cpu_kernels import Choice, ChosenKernel, check_choice, choice_in, parse_choice
from ..engine.expert_ffn import Linear
from ..errors import InputError, known_as
from ..geometry import MoEGeometry
from ..machine.profile import HardwareProfile
from ..packed import parameter_names

_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class CpuKernel(NamedTuple):
    """A product of activations and weights for the CPU lane, and why it was taken.

    `choice`: the kernels behind it; None for transformers' own operations.
    """

    name: str
    reason: str
    linear: Linear
    choice: Choice | None = None


EAGER = CpuKernel("eager", "as transformers computes it, bit for bit", F.linear)


def check_cpu_kernel(spec: str | None, dtype: str | None) -> None:
    """Raise InputError where `spec` names no kernel that runs here for weights of `dtype` (None: of any dtype).

    UnknownNameError lists the kernels.
    """
    if spec is not None and spec.lower() not in ("eager", "auto"):
        if dtype is None:
            check_choice(spec, list(_DTYPES.values()))
        else:
            parse_choice(spec, dtype)


def cpu_kernel_for(spec: str | None, geometry: MoEGeometry, hardware: HardwareProfile, emulated: bool) -> CpuKernel:
    """The kernel that `spec` names; None: eager where times are emulated, else "auto".

    Raises UnknownNameError, which lists the kernels.
    """
    spec = spec if spec is None else known_as(spec, ("eager", "auto"))
    if spec == "eager" or (spec is None and (emulated or geometry.dtype == "fp32")):
        return EAGER
    if spec in (None, "auto"):
        from ..measure.cpu_kernels import attach_kernel

        chosen = attach_kernel(geometry, hardware)
    else:
        chosen = ChosenKernel(parse_choice(spec, geometry.dtype))
    return CpuKernel(chosen.name, chosen.choice.reason, chosen.linear, chosen.choice)


def cpu_only_kernel_for(
    spec: str | None, geometry: MoEGeometry, hardware: HardwareProfile, modules: Sequence[Any]
) -> CpuKernel:
    """As cpu_kernel_for, on a machine without a GPU: measured on the model's own experts where they are loaded."""
    measurable = modules and not any(getattr(modules[0], name).is_meta for name in parameter_names(modules[0]))
    if (
        (spec is not None and spec.lower() != "auto")
        or geometry.dtype == "fp32"
        or choice_in(hardware, geometry.dtype)
        or not measurable
    ):
        return cpu_kernel_for(spec, geometry, hardware, emulated=False)
    from ..measure.layer_kernels import choose_layer_kernels

    chosen = ChosenKernel(choose_layer_kernels(modules[0], geometry.dtype))
    return CpuKernel(chosen.name, chosen.choice.reason, chosen.linear, chosen.choice)


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
