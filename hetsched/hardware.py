"""Which machine a run is on: this one, or one of the gallery to emulate."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from .gallery import machine, machines
from .profile import HardwareProfile, Processor, Source

THIS_MACHINE = ("auto", "cpu")


def resolve_hardware(hardware: str | Path | HardwareProfile | None) -> HardwareProfile:
    """A profile from a profile, a gallery name, a path, or None ("auto", "cpu"): this machine's CPU, no accelerator.

    Raises UnknownNameError, which lists the names.
    """
    if isinstance(hardware, HardwareProfile):
        return hardware
    if hardware is None or hardware in THIS_MACHINE:
        return nominal_cpu()
    return machine(hardware)


def hardware_names() -> list[str]:
    """Names that resolve_hardware takes."""
    return [*THIS_MACHINE, *machines()]


def nominal_cpu() -> HardwareProfile:
    """This machine's CPU by rule of thumb: 10 GB/s and 20 GFLOP/s a core, up to 4 cores for the bandwidth.

    It only orders predictions; with no accelerator every expert runs on the CPU whatever the figures say.
    """
    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 << 30
    cpu = Processor(
        name=f"this CPU, {cores} cores",
        capacity_bytes=memory,
        read_bytes_per_s=1e10 * min(cores, 4),
        flops_per_s=2e10 * cores,
        call_s=1e-5,
    )
    return HardwareProfile(
        name="cpu",
        cpu=cpu,
        gpu=None,
        h2d=None,
        d2h=None,
        source=Source.DATASHEET,
        date=datetime.date.today().isoformat(),
        title="this machine's CPU, no accelerator",
        notes=("nominal figures; `hetsched profile` measures them",),
    )
