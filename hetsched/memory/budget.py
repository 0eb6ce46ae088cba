"""How much GPU memory experts are to have, as people say it, checked against what there is."""

from __future__ import annotations

import re
from typing import Any

from ..errors import InputError
from ..geometry import MoEGeometry
from ..machine.profile import HardwareProfile
from ..machine.sizes import parse_bytes, show_bytes

NUMBER = re.compile(r"\d{0,6}\.?\d{1,6}")


def expert_budget(gpu_memory: str | int | None, geometry: MoEGeometry, hardware: HardwareProfile) -> int | None:
    """Bytes for experts: of a number, a size, or a share of all experts' bytes; None where nobody says.

    Raises InputError for a machine without a GPU, and for less than one expert (naming the least that works) or more
    than the device has.
    """
    if gpu_memory is None:
        return None
    if hardware.gpu is None:
        raise InputError(f"gpu_memory {gpu_memory!r} was given, and {hardware.name} has no GPU; drop one of the two")
    budget = parse_bytes(gpu_memory, geometry.all_slots_bytes)
    _check(gpu_memory, budget, geometry, hardware.name, hardware.gpu.capacity_bytes)
    return budget


def _check(given: Any, budget: int, geometry: MoEGeometry, name: str, device_bytes: int) -> None:
    if budget > device_bytes:
        raise InputError(
            f"gpu_memory {show_bytes(budget)} is more than {name} has; give at most {show_bytes(device_bytes)}"
        )
    if budget < geometry.expert_bytes:
        meant = _meant(str(given).strip(), device_bytes)
        raise InputError(
            f"gpu_memory {given} ({budget} bytes) holds no expert; {meant}the least that works is "
            f"{geometry.expert_bytes} bytes ({show_bytes(geometry.expert_bytes)}), or hardware='cpu' for none"
        )


def _meant(given: str, device_bytes: int) -> str:
    """What somebody may have meant who wrote a number without a unit."""
    if not NUMBER.fullmatch(given) or not 0 < float(given) <= 100:
        return ""
    share = f"write {float(given) * (100 if float(given) < 1 else 1):g}% for that share of the experts"
    return f"{share}, {given}GiB for a size; " if float(given) * 2**30 <= device_bytes else f"{share}; "
