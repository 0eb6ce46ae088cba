"""What computes experts on the CPU lane: as transformers does, or the fastest lossless kernel by measurement."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..engine.cpu_kernels import ChosenKernel, parse_choice
from ..engine.expert_ffn import Linear
from ..errors import InputError
from ..geometry import MoEGeometry
from ..profile import HardwareProfile

_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class CpuKernel(NamedTuple):
    """A product of activations and weights for the CPU lane, and why it was taken."""

    name: str
    reason: str
    linear: Linear


EAGER = CpuKernel("eager", "as transformers computes it, bit for bit", F.linear)


def cpu_kernel_for(spec: str | None, geometry: MoEGeometry, hardware: HardwareProfile, emulated: bool) -> CpuKernel:
    """The kernel that `spec` names; None: eager where times are emulated, else "auto".

    Raises UnknownNameError, which lists the kernels.
    """
    if spec == "eager" or (spec is None and (emulated or geometry.dtype == "fp32")):
        return EAGER
    if spec in (None, "auto"):
        from ..measure.cpu_kernels import attach_kernel

        chosen = attach_kernel(geometry, hardware)
    else:
        chosen = ChosenKernel(parse_choice(spec, geometry.dtype))
    return CpuKernel(chosen.name, chosen.choice.reason, chosen.linear)


def dtype_name(dtype: torch.dtype) -> str:
    """The project's name of an expert weight's dtype. Raises InputError for one that no lane computes."""
    if dtype not in _DTYPES:
        raise InputError(f"experts are stored as {dtype}; load the model as float32, bfloat16 or float16")
    return _DTYPES[dtype]
