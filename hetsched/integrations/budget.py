"""How much GPU memory the experts get, and the accelerator that holds it. Fails before anything is allocated."""

from __future__ import annotations

from typing import Any

from ..accelerators.base import Accelerator
from ..accelerators.emulated.device import DEFAULT_SCALE
from ..errors import InputError
from ..geometry import MoEGeometry
from ..machine.profile import HardwareProfile
from ..machine.sizes import parse_bytes, show_bytes
from ..plugins import plugin

RESERVED_SHARE = 0.15  # of GPU memory, for the KV cache, activations and the driver, where the user names no budget


def gpu_budget_bytes(gpu_memory: str | int | None, geometry: MoEGeometry, hardware: HardwareProfile) -> int:
    """Bytes of GPU memory for experts.

    `gpu_memory`: bytes, a size, a share of all experts' bytes, or None: all of the GPU but the rest of the model and a
    reserve. Raises InputError for less than one expert (naming the least that works) or more than the device has.
    """
    total_bytes = geometry.total_expert_bytes
    if hardware.gpu is None:
        if gpu_memory is not None:
            raise InputError(
                f"gpu_memory {gpu_memory!r} was given, and {hardware.name} has no GPU; drop one of the two"
            )
        return 0
    device_bytes = hardware.gpu.capacity_bytes
    if gpu_memory is None:
        dense_bytes = geometry.dense_params * 2 * geometry.num_layers
        budget = min(int(device_bytes * (1 - RESERVED_SHARE)) - dense_bytes, total_bytes)
    else:
        budget = parse_bytes(gpu_memory, total_bytes)
    if budget > device_bytes:
        raise InputError(
            f"gpu_memory {show_bytes(budget)} is more than {hardware.name} has; give at most {show_bytes(device_bytes)}"
        )
    if budget < geometry.expert_bytes:
        raise InputError(
            f"gpu_memory {gpu_memory} ({budget} bytes) holds no expert; the least that works is "
            f"{geometry.expert_bytes} bytes ({show_bytes(geometry.expert_bytes)}), or hardware='cpu' for none"
        )
    return budget


def accelerator_for(spec: Any, hardware: HardwareProfile, time_scale: float | None, here: bool) -> Accelerator:
    """The accelerator to run on: the object given, the plug-in named, else what fits `hardware`.

    That is "cpu" without a GPU, "cuda" where the profile is of this machine (`here`), "emulated" for any other. A
    plug-in's class is called with the profile, an emulated one with `time_scale` as well (None: the usual one).
    """
    if spec is not None and not isinstance(spec, str):
        chosen: Accelerator = spec
        return chosen
    kind = _kind(spec, hardware, here)
    scale = DEFAULT_SCALE if time_scale is None else time_scale
    made: Accelerator = kind(hardware, time_scale=scale) if kind.emulated else kind(hardware)
    return made


def refuse_idle_scale(time_scale: float | None, spec: Any, hardware: HardwareProfile, here: bool) -> None:
    """Raise InputError for a `time_scale` that nothing would follow; the rest as for accelerator_for."""
    if time_scale is None:
        return
    if spec is not None and not isinstance(spec, str):
        raise InputError(
            f"time_scale {time_scale:g} was given beside an accelerator object; give it to that one instead"
        )
    if not _kind(spec, hardware, here).emulated:
        raise InputError(
            f"time_scale {time_scale:g} needs an emulated machine, and {hardware.name} is this one; drop it"
        )


def _kind(name: str | None, hardware: HardwareProfile, here: bool) -> Any:
    return plugin("hetsched.accelerators", name or ("cpu" if hardware.gpu is None else "cuda" if here else "emulated"))
