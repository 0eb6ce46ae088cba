"""Measures this machine: the whole HardwareProfile of `hetsched profile`."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import torch

from ..errors import InputError, UnknownNameError
from ..machine.fingerprint import fingerprint, tool_version
from ..machine.gallery import machine, machines
from ..machine.profile import HardwareProfile, Source
from .cpu import measure_cpu
from .request import Request

CONTENTION_TOKENS = 4
NO_GPU = "gpu: none here, so GPU latency, copies both ways, contention and pinnable memory were not measured"


def measure_profile(request: Request) -> HardwareProfile:
    """The profile of this machine for one geometry. Takes about the request's budget for each device, and start-up.

    Raises InputError for a device that is not here, UnknownNameError for one that is not known.
    """
    gallery_machine = _gallery_machine(request.device)
    device = "cpu" if gallery_machine else request.device
    with torch.inference_mode():
        profile = _measured(request, device)
    return profile if gallery_machine is None else _with_gpu_of(profile, gallery_machine)


def has_gpu(device: str) -> bool:
    """Whether `device` (auto, cpu, cuda) means a GPU here. Raises InputError when cuda is asked for and absent."""
    from .gpu import gpu_present

    if device == "cuda" and not gpu_present():
        raise InputError("device 'cuda' is not here: torch finds no GPU; run 'hetsched doctor', or use --device cpu")
    return device != "cpu" and gpu_present()


def _gallery_machine(device: str) -> HardwareProfile | None:
    if device in ("auto", "cpu", "cuda"):
        return None
    if device not in machines():
        raise UnknownNameError("device", device, ["auto", "cpu", "cuda", *machines()])
    return machine(device)


def _measured(request: Request, device: str) -> HardwareProfile:
    cpu, experts, notes = measure_cpu(request)
    base = HardwareProfile(
        name="this-machine",
        title=f"{cpu.name}, compute threads: {torch.get_num_threads()}",
        cpu=cpu,
        gpu=None,
        h2d=None,
        d2h=None,
        source=Source.MEASURED,
        date=date.today().isoformat(),
        tool=tool_version(),
        fingerprint=fingerprint(request.geometry, torch.get_num_threads(), device),
        notes=tuple(notes),
    )
    if not has_gpu(device):
        return replace(base, notes=(*notes, NO_GPU))
    from .gpu import measure_gpu
    from .links import measure_contention, measure_links, pinnable_bytes

    gpu, gpu_notes = measure_gpu(request)
    h2d, d2h = measure_links(request)
    slowdowns = measure_contention(experts.call(CONTENTION_TOKENS), experts.shape.weight_bytes, 2.0)
    return replace(
        base,
        title=f"{gpu.name}, {base.title}",
        gpu=gpu,
        h2d=h2d,
        d2h=d2h,
        cpu_slowdown=slowdowns[0],
        h2d_slowdown=slowdowns[1],
        pinnable_bytes=pinnable_bytes(),
        notes=(*notes, *gpu_notes),
    )


def _with_gpu_of(profile: HardwareProfile, other: HardwareProfile) -> HardwareProfile:
    """This CPU, measured, beside the GPU and link of a gallery machine, marked as emulated."""
    if other.gpu is None or other.h2d is None or other.d2h is None:
        raise InputError(f"{other.name} has no GPU to emulate; choose another machine of the gallery")
    figures = ("capacity_bytes", "read_bytes_per_s", "flops_per_s", "call_s", "per_expert_s", "dense_call_s")
    keys = [f"gpu.{figure}" for figure in figures]
    names = ("latency_s", "bytes_per_s", "chunk_bytes", "pageable_latency_s", "pageable_bytes_per_s")
    keys += [f"{link}.{name}" for link in ("h2d", "d2h") for name in names]
    keys += ["contention.cpu_slowdown", "contention.h2d_slowdown"]
    return replace(
        profile,
        name=f"this-machine-with-{other.name}",
        title=f"{other.gpu.name} (emulated), {profile.title}",
        gpu=other.gpu,
        h2d=other.h2d,
        d2h=other.d2h,
        cpu_slowdown=other.cpu_slowdown,
        h2d_slowdown=other.h2d_slowdown,
        unified_memory=other.unified_memory,
        provenance=dict.fromkeys(keys, Source.EMULATED),
        fingerprint={**profile.fingerprint, "gpu": f"{other.gpu.name} (emulated)"},
        notes=(
            *(n for n in profile.notes if n != NO_GPU),
            f"GPU, link and contention are those of {other.name}: emulated",
        ),
    )
