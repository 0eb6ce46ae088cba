"""CPU expert kernels: one expert's FFN on the CPU, chosen by measurement (see hetsched.measure.cpu_kernels)."""

from .base import ExpertKernel, SwigluWeights
from .choose import (
    Choice,
    ChosenKernel,
    KernelTiming,
    check_choice,
    choice_in,
    choose,
    kernel_names,
    lossy_kernels,
    make_kernels,
    parse_choice,
)

__all__ = [
    "Choice",
    "ChosenKernel",
    "ExpertKernel",
    "KernelTiming",
    "SwigluWeights",
    "check_choice",
    "choice_in",
    "choose",
    "kernel_names",
    "lossy_kernels",
    "make_kernels",
    "parse_choice",
]
