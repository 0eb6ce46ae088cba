"""From the options of attach() to an engine: machine, budget, tier, scheduler, accelerator, CPU kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..engine.cpu_only import CpuOnlyEngine
from ..engine.engine import Engine
from ..geometry import MoEGeometry
from ..machine.profile import HardwareProfile
from ..scheduler import DEFAULT_SOLVER, Scheduler
from ..steering.file import Steering
from ..tiers import Tier
from .budget import accelerator_for
from .choices import MemoryPlan, choices_of, memory_plan
from .choices import Options as Options
from .cpu_lane import CpuKernel, cpu_kernel_for, cpu_only_kernel_for
from .gpu_precision import store_for


class Assembly(NamedTuple):
    """What runs a model's experts, and the choices behind it."""

    hardware: HardwareProfile
    tier: Tier
    cpu_kernel: CpuKernel
    engine: Engine | CpuOnlyEngine
    steering: Steering | None


def assembled(geometry: MoEGeometry, options: Options, modules: Sequence[Any]) -> Assembly:
    """Everything made; what fails leaves nothing behind. Raises InputError as attach() says."""
    names = choices_of(options, geometry)
    sizes = memory_plan(names, options, geometry, modules)
    hardware, tier = names.hardware, sizes.tier
    scheduler = _scheduler(options, geometry, sizes, names.cpu_only)
    accelerator = accelerator_for(options.accelerator, hardware, options.time_scale, names.here)
    try:
        if names.cpu_only:
            kernel = cpu_only_kernel_for(options.cpu_kernel, geometry, hardware, modules)
            return Assembly(
                hardware, tier, kernel, CpuOnlyEngine(scheduler, accelerator, kernel.choice), names.steering
            )
        kernel = cpu_kernel_for(options.cpu_kernel, geometry, hardware, accelerator.emulated)
        return Assembly(
            hardware, tier, kernel, Engine(scheduler, accelerator, kernel.linear, store_for(tier)), names.steering
        )
    except BaseException:
        accelerator.close()
        raise


def _scheduler(options: Options, geometry: MoEGeometry, sizes: MemoryPlan, cpu_only: bool) -> Scheduler:
    policy, solver = options.policy, options.solver
    if cpu_only:  # there is nothing to decide, whatever was asked for
        policy, solver = "cpu-only", DEFAULT_SOLVER
    tier = sizes.tier
    return Scheduler(
        tier.slots,
        tier.hardware,
        sizes.budget_bytes,
        policy=policy,
        solver=solver,
        frequency_LE=options.frequency_LE,
        timed_as=tier.timed_as,
        degrade=True,
    )
