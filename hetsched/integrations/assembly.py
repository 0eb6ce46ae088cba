"""From the options of attach() to an engine: machine, budget, tier, scheduler, accelerator, CPU kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .. import gallery
from ..engine.cpu_only import CpuOnlyEngine
from ..engine.engine import Engine
from ..errors import InputError
from ..geometry import MoEGeometry
from ..hardware import is_this_machine, resolve_hardware
from ..plugins import load
from ..profile import HardwareProfile
from ..scheduler import DEFAULT_SOLVER, Scheduler, refuse_idle_solver
from ..tiers import Tier
from ..types import FloatArray
from .budget import accelerator_for, gpu_budget_bytes, refuse_idle_scale
from .cpu_lane import CpuKernel, cpu_kernel_for, cpu_only_kernel_for, nothing_to_decide
from .existing_experts import ExistingExperts
from .gpu_precision import store_for, tier_for


@dataclass(frozen=True)
class Options:
    """How to attach; every field has an automatic choice. See attach()."""

    hardware: str | Path | HardwareProfile | None = None
    gpu_memory: str | int | None = None
    solver: Any = DEFAULT_SOLVER
    policy: Any = "hetsched"
    accelerator: Any = None
    time_scale: float | None = None
    frequency_LE: FloatArray | None = None
    stand_in_for: str | MoEGeometry | None = None
    cpu_kernel: str | None = None
    gpu_precision: str | None = None


class Assembly(NamedTuple):
    """What runs a model's experts, and the choices behind it."""

    hardware: HardwareProfile
    tier: Tier
    cpu_kernel: CpuKernel
    engine: Engine | CpuOnlyEngine


def assembled(geometry: MoEGeometry, options: Options, modules: Sequence[Any]) -> Assembly:
    """Everything made; what fails leaves nothing behind. Raises InputError as attach() says."""
    hardware, here = resolve_hardware(options.hardware, geometry), is_this_machine(options.hardware)
    budget_bytes = gpu_budget_bytes(options.gpu_memory, geometry, hardware)
    refuse_idle(options, hardware)
    timed_as = _stand_in(options.stand_in_for, hardware, here)
    tier = tier_for(options.gpu_precision, modules, geometry, hardware, timed_as, budget_bytes, options.frequency_LE)
    cpu_only = _is_cpu_only(options, hardware)
    scheduler = _scheduler(options, geometry, tier, budget_bytes, cpu_only)
    accelerator = accelerator_for(options.accelerator, hardware, options.time_scale, here)
    try:
        if cpu_only:
            kernel = cpu_only_kernel_for(options.cpu_kernel, geometry, hardware, modules)
            return Assembly(hardware, tier, kernel, CpuOnlyEngine(scheduler, accelerator, kernel.choice))
        kernel = cpu_kernel_for(options.cpu_kernel, geometry, hardware, accelerator.emulated)
        return Assembly(hardware, tier, kernel, Engine(scheduler, accelerator, kernel.linear, store_for(tier)))
    except BaseException:
        accelerator.close()
        raise


def refuse_idle(options: Options, hardware: HardwareProfile) -> None:
    """Raise InputError for an option that would change nothing on this machine."""
    refuse_idle_scale(options.time_scale, options.accelerator, hardware, is_this_machine(options.hardware))
    if _is_cpu_only(options, hardware):
        nothing_to_decide(options.policy, options.solver, hardware)
    else:
        refuse_idle_solver(load("hetsched.policies", options.policy), options.solver)


def _is_cpu_only(options: Options, hardware: HardwareProfile) -> bool:
    return options.accelerator is None and hardware.gpu is None


def _stand_in(spec: str | MoEGeometry | None, hardware: HardwareProfile, here: bool) -> MoEGeometry | None:
    """The model whose seconds the layers take. Raises InputError where time is real."""
    if spec is not None and (here or hardware.gpu is None):
        raise InputError(f"stand_in_for {spec} needs an emulated machine, and {hardware.name} is this one")
    return gallery.model(spec) if isinstance(spec, str) else spec


def _scheduler(options: Options, geometry: MoEGeometry, tier: Tier, budget_bytes: int, cpu_only: bool) -> Scheduler:
    policy, solver = _policy_for(options.policy, geometry), options.solver
    if cpu_only:
        policy, solver = nothing_to_decide(policy, solver, tier.hardware)
    return Scheduler(
        tier.slots,
        tier.hardware,
        budget_bytes,
        policy=policy,
        solver=solver,
        frequency_LE=options.frequency_LE,
        timed_as=tier.timed_as,
        degrade=True,
    )


def _policy_for(spec: Any, geometry: MoEGeometry) -> Any:
    """The policy that `spec` names, kept to the experts that exist where layers have different numbers of them."""
    if not geometry.experts_L:
        return spec
    found = load("hetsched.policies", spec)
    return ExistingExperts(found() if isinstance(found, type) else found)
