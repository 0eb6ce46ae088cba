"""How much GPU memory the experts get, and the accelerator that holds it. Fails before anything is allocated."""

from __future__ import annotations

from typing import Any

from ..accelerators.base import Accelerator
from ..accelerators.emulated.device import DEFAULT_SCALE
from ..errors import InputError
from ..geometry import MoEGeometry
from ..machine.profile import HardwareProfile
from ..machine.sizes import show_bytes
from ..memory.budget import expert_budget
from ..memory.plan import MemoryPlan, plan_memory
from ..plugins import plugin
from .model_shape import RestOfModel


def planned(
    gpu_memory: str | int | None,
    geometry: MoEGeometry,
    hardware: HardwareProfile,
    rest: RestOfModel,
    context: int | None = None,
    batch: int = 1,
) -> MemoryPlan:
    """The memory plan of a model on a machine.

    `gpu_memory`: bytes for experts, a size, a share of all experts' bytes, or None: what the plan's other lines leave.
    Raises InputError for less than one expert (naming the least that works, or what leaves no room) or more than the
    device has.
    """
    gpu, budget_bytes = hardware.gpu, expert_budget(gpu_memory, geometry, hardware)
    plan = plan_memory(
        geometry,
        rest.shape,
        gpu_bytes=gpu.capacity_bytes if gpu else 0,
        host_bytes=hardware.cpu.capacity_bytes,
        context=context,
        batch=batch,
        expert_budget_bytes=budget_bytes,
        dense_bytes=rest.dense_bytes,
        pinnable_bytes=hardware.pinnable_bytes,
        host_expert_bytes=rest.expert_bytes,
        shared=hardware.unified_memory,
    )
    if gpu is not None and not plan.slots:
        lines = plan.gpu
        host = f", what the host holds in the same memory ({show_bytes(plan.host.total)})" if plan.shared else ""
        raise InputError(
            f"{hardware.name} has {show_bytes(plan.gpu_bytes)} and no room for an expert beside dense weights "
            f"({show_bytes(lines.dense)}), cache ({show_bytes(lines.kv_cache)} at context {plan.context:,}, batch "
            f"{plan.batch}), prefill ({show_bytes(lines.prefill)}){host} and reserve ({show_bytes(lines.reserve)}); "
            "give a smaller context, a gpu_memory, or hardware='cpu'"
        )
    return plan


def accelerator_for(spec: Any, hardware: HardwareProfile, time_scale: float | None, here: bool) -> Accelerator:
    """The accelerator to run on: the object given, the plug-in named, else what fits `hardware`.

    That is "cpu" without a GPU, "cuda" where the profile is of this machine (`here`), "emulated" for any other. A
    plug-in's class is called with the profile, an emulated one with `time_scale` as well (None: the usual one).
    """
    if spec is not None and not isinstance(spec, (str, type)):
        chosen: Accelerator = plugin("hetsched.accelerators", spec)
        return chosen
    kind = _kind(spec, hardware, here)
    scale = DEFAULT_SCALE if time_scale is None else time_scale
    made: Accelerator = kind(hardware, time_scale=scale) if _is_emulated(kind) else kind(hardware)
    return made


def refuse_idle_scale(time_scale: float | None, spec: Any, hardware: HardwareProfile, here: bool) -> None:
    """Raise InputError for a `time_scale` that nothing would follow; the rest as for accelerator_for."""
    if time_scale is None:
        return
    if spec is not None and not isinstance(spec, (str, type)):
        raise InputError(
            f"time_scale {time_scale:g} was given beside an accelerator object; give it to that one instead"
        )
    if not _is_emulated(_kind(spec, hardware, here)):
        raise InputError(
            f"time_scale {time_scale:g} needs an emulated machine, and {hardware.name} is this one; drop it"
        )


def _is_emulated(kind: Any) -> bool:
    return bool(getattr(kind, "emulated", False))


def _kind(name: str | type | None, hardware: HardwareProfile, here: bool) -> Any:
    return plugin("hetsched.accelerators", name or ("cpu" if hardware.gpu is None else "cuda" if here else "emulated"))
