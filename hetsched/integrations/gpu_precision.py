"""What the GPU's slots hold: the model's own weights, or the lossy copies that the caller allowed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from ..engine.host_store import HostStore
from ..engine.quantised_layout import QuantisedLayout
from ..engine.quantised_store import QuantisedStore
from ..errors import InputError, UnknownNameError, known_as
from ..geometry import MoEGeometry
from ..machine.memory import room_bytes
from ..machine.profile import HardwareProfile
from ..machine.sizes import show_bytes
from ..tiers import PRECISIONS, Precision, Tier, lossy_tier, preferred
from ..types import FloatArray

AUTO = "auto"


def check_gpu_precision(spec: str | None, hardware: HardwareProfile) -> None:
    """Raise UnknownNameError for a name that is no precision, InputError where there is no GPU to hold copies."""
    if spec is None:
        return
    spec = known_as(spec, [AUTO, *PRECISIONS])
    if spec not in (AUTO, *PRECISIONS):
        raise UnknownNameError("GPU precision", spec, [AUTO, *PRECISIONS])
    if hardware.gpu is None:
        raise InputError(f"gpu_precision {spec} was given, and {hardware.name} has no GPU; drop one of the two")


def tier_for(
    spec: str | None,
    modules: Sequence[Any],
    geometry: MoEGeometry,
    hardware: HardwareProfile,
    timed_as: MoEGeometry | None,
    budget_bytes: int,
    frequency_LE: FloatArray | None,
) -> Tier:
    """The tier that `spec` names: None for exact weights, a precision, or "auto" for what the placement prefers.

    `modules`: one expert module a layer, for the bytes of their copies. Raises UnknownNameError, and InputError where
    there is no GPU, a copy would be no smaller than its expert, or the host has no room for all copies.
    """
    exact = Tier(None, geometry, hardware, timed_as)
    if spec is None:
        return exact
    check_gpu_precision(spec, hardware)
    spec = known_as(spec, [AUTO, *PRECISIONS])
    plain = not any(module.is_transposed for module in modules)

    def made(precision: Precision) -> Tier:
        row_bytes = max(QuantisedLayout.quantising(module, precision).row_bytes for module in modules)
        needed_bytes, free_bytes = row_bytes * geometry.total_experts, room_bytes()
        if needed_bytes > free_bytes:
            raise InputError(
                f"{precision.name} copies of all experts need {show_bytes(needed_bytes)} of host memory beside the "
                f"model, and {show_bytes(free_bytes)} are free; free some, or drop gpu_precision"
            )
        return lossy_tier(precision, row_bytes, geometry, hardware, timed_as, plain)

    if spec != AUTO:
        return made(PRECISIONS[spec])
    tiers = [exact]
    for precision in PRECISIONS.values():
        with contextlib.suppress(InputError):  # no smaller than the experts themselves, or no room on the host
            tiers.append(made(precision))
    return preferred(tiers, budget_bytes, frequency_LE)


def store_for(tier: Tier) -> HostStore:
    """The host store that keeps what the tier's slots are filled from."""
    return HostStore() if tier.precision is None else QuantisedStore(tier.precision)


def precision_stats(tier: Tier, store: HostStore, *, steered: bool, cpu_lossless: bool) -> dict[str, Any]:
    """`lossless`: whether both lanes compute with the model's own weights and activations what its own routers chose;
    what the GPU holds, why.

    `lossy_share`: of the experts computed so far, those computed from copies.
    """
    runs = (store.copied_runs, store.exact_runs) if isinstance(store, QuantisedStore) else (0, 0)
    return {
        "lossless": tier.precision is None and not steered and cpu_lossless,
        "gpu_precision": tier.name,
        "gpu_precision_reason": tier.reason,
        "slot_bytes": tier.slots.expert_bytes,
        "lossy_share": runs[0] / max(1, sum(runs)),
    }
