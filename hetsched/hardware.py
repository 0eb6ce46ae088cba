"""Which machine a run is on: this one, or one of the gallery to emulate."""

from __future__ import annotations

import datetime
import os
from dataclasses import replace
from pathlib import Path

from .fingerprint import fingerprint
from .gallery import machine, machines
from .geometry import MoEGeometry
from .profile import HardwareProfile, Processor, Source
from .profile_store import find_profile

THIS_MACHINE = ("auto", "cpu")


def resolve_hardware(
    hardware: str | Path | HardwareProfile | None, geometry: MoEGeometry | None = None
) -> HardwareProfile:
    """A profile from a profile, a gallery name, a path, or None ("auto", "cpu"): this machine's CPU, no accelerator.

    This machine's is the nearest one that `hetsched profile` has stored for `geometry`, else a nominal one; its notes
    say which. Raises UnknownNameError, which lists the names.
    """
    if isinstance(hardware, HardwareProfile):
        return hardware
    if hardware is None or hardware in THIS_MACHINE:
        return (geometry and measured_cpu(geometry)) or nominal_cpu()
    return machine(hardware)


def hardware_names() -> list[str]:
    """Names that resolve_hardware takes."""
    return [*THIS_MACHINE, *machines()]


def measured_cpu(geometry: MoEGeometry) -> HardwareProfile | None:
    """This machine's CPU as `hetsched profile` measured it, with the file and what differs in its notes; or None."""
    found = find_profile(fingerprint(geometry))
    if found is None:
        return None
    notes = (f"profile {found.path}", *found.warnings, *found.profile.notes)
    return replace(found.profile, gpu=None, h2d=None, d2h=None, notes=notes)


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
        notes=("no measured profile of this machine, nominal figures: run 'hetsched profile'",),
    )
