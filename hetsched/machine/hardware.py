"""Which machine a run is on: this one, or one of the gallery to emulate."""

from __future__ import annotations

import datetime
import os
import re
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..geometry import MoEGeometry
from .fingerprint import fingerprint, gpu_memory_bytes, gpu_name_and_driver
from .gallery import machine, machines
from .profile import HardwareProfile, Processor, Source
from .store import find_profile, stored

THIS_MACHINE = ("auto", "cpu")
UNKNOWN_GPU = "rtx-3060-12gb"


def resolve_hardware(
    hardware: str | Path | HardwareProfile | None, geometry: MoEGeometry | None = None
) -> HardwareProfile:
    """A profile from a profile, a gallery name, a path, None or "auto": this machine, "cpu": this machine's CPU alone.

    This machine's is the nearest one that `hetsched profile` has stored for `geometry`, else a nominal one; its notes
    say which. Raises UnknownNameError, which lists the names.
    """
    if isinstance(hardware, HardwareProfile):
        return hardware
    if is_this_machine(hardware):
        found = _this_machine(geometry, alone=str(hardware).lower() == "cpu")
        return replace(found, notes=(*found.notes, *stored().warnings))
    assert hardware is not None
    if isinstance(hardware, str) and not hardware.strip():
        raise InputError(f"hardware {hardware!r} names no machine; give a name, a path, or None for this machine")
    return machine(hardware)


def _this_machine(geometry: MoEGeometry | None, alone: bool) -> HardwareProfile:
    gpu = "none" if alone else gpu_name_and_driver()[0]
    if gpu != "none":
        return (geometry and measured_here(geometry, gpu)) or nominal_gpu(gpu, gpu_memory_bytes())
    return (geometry and measured_cpu(geometry)) or nominal_cpu()


def is_this_machine(hardware: str | Path | HardwareProfile | None) -> bool:
    """Whether work for that machine is to be done here, not emulated."""
    return hardware is None or str(hardware).lower() in THIS_MACHINE


def measured_here(geometry: MoEGeometry, gpu: str) -> HardwareProfile | None:
    """This machine as `hetsched profile` measured it with the very GPU that it has now; or None."""
    found = find_profile(fingerprint(geometry))
    if found is None or found.profile.gpu is None or found.profile.fingerprint.get("gpu") != gpu:
        return None
    return replace(found.profile, notes=(f"profile {found.path}", *found.warnings, *found.profile.notes))


def nominal_gpu(gpu: str, capacity_bytes: int) -> HardwareProfile:
    """The gallery's machine with a GPU of that model, by datasheet, else that of a common small GPU.

    The host and the link are then another machine's as well; the GPU's memory is its own.
    """
    gallery = [machine(name) for name in machines()]
    alike = [m for m in gallery if m.gpu and _model(m.gpu.name) == _model(gpu)]
    known = max(
        alike, key=lambda m: m.h2d.bytes_per_s if m.h2d else 0.0, default=None
    )  # in a whole slot, if in several
    like = known or machine(UNKNOWN_GPU)
    assert like.gpu is not None
    note = (
        f"no measured profile of this machine; {gpu} is taken for {like.name} by its datasheet: run 'hetsched profile'"
    )
    return replace(like, gpu=replace(like.gpu, name=gpu, capacity_bytes=capacity_bytes), notes=(note, *like.notes))


def _model(name: str) -> str:
    """The part of a GPU's name that tells models apart: '4090', 'a100', 't4'."""
    found = re.search(r"\b([a-z]+\d+|\d{4})\b", name.lower())
    return found[1] if found else name.lower()


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
        per_expert_s=2e-6,
        dense_call_s=1e-4,
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
