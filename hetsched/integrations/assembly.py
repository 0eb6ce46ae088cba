"""From the options of attach() to an engine: machine, budget, tier, scheduler, accelerator, CPU kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..engine.cpu_only import CpuOnlyEngine
from ..engine.cpu_packed import CpuLane
from ..engine.engine import Engine
from ..engine.sight import Sight
from ..files import user_path
from ..forecast import Learned
from ..forecast.fed import STATES, needs_of
from ..geometry import MoEGeometry
from ..learned import Memory, load
from ..machine.profile import HardwareProfile
from ..memory.plan import MemoryPlan
from ..runlog.logged import LoggedScheduler
from ..scheduler import DEFAULT_SOLVER, Scheduler
from ..steering.file import Steering
from ..tiers import Tier
from .budget import accelerator_for
from .choices import Options as Options
from .choices import Sizes, choices_of, sizes_of
from .cpu_lane import CpuKernel, cpu_kernel_for, cpu_only_kernel_for
from .gpu_precision import store_for
from .model_shape import RestOfModel


class Assembly(NamedTuple):
    """What runs a model's experts, and the choices behind it.

    `memory`: what other runs have learned; `plan`: bytes by what they are for.
    """

    hardware: HardwareProfile
    tier: Tier
    cpu_kernel: CpuKernel
    engine: Engine | CpuOnlyEngine
    steering: Steering | None
    memory: Memory | None
    plan: MemoryPlan


def assembled(geometry: MoEGeometry, options: Options, modules: Sequence[Any], rest: RestOfModel) -> Assembly:
    """Everything made; what fails leaves nothing behind. Raises InputError as attach() says."""
    names = choices_of(options, geometry)
    sizes = sizes_of(names, options, geometry, modules, rest)
    hardware, tier = names.hardware, sizes.tier
    memory = None if options.learned is None else load(user_path(options.learned), geometry)
    sight = Sight()
    scheduler = _scheduler(options, sizes, names.cpu_only, memory.sums if memory else None, sight)
    accelerator = accelerator_for(options.accelerator, hardware, options.time_scale, names.here)
    try:
        if names.cpu_only:
            kernel = cpu_only_kernel_for(options.cpu_kernel, geometry, hardware, modules)
            cpu_engine = CpuOnlyEngine(scheduler, accelerator, kernel.choice)
            return Assembly(hardware, tier, kernel, cpu_engine, names.steering, None, sizes.plan)
        kernel = cpu_kernel_for(options.cpu_kernel, geometry, hardware, accelerator.emulated, modules)
        lane = CpuLane(kernel.linear, kernel.choice)
        engine = Engine(scheduler, accelerator, lane, store_for(tier), options.gpu_memory is None)
        engine.sight = sight if needs_of(scheduler.forecaster) & STATES else None
        return Assembly(hardware, tier, kernel, engine, names.steering, memory, sizes.plan)
    except BaseException:
        accelerator.close()
        raise


def _scheduler(options: Options, sizes: Sizes, cpu_only: bool, learned: Learned | None, sight: Sight) -> Scheduler:
    policy, solver, forecaster = options.policy, options.solver, options.forecaster
    if cpu_only:  # there is nothing to decide, whatever was asked for
        policy, solver, forecaster = "cpu-only", DEFAULT_SOLVER, None
    tier = sizes.tier
    kind = Scheduler if options.log is None else LoggedScheduler
    return kind(
        tier.slots,
        tier.hardware,
        sizes.plan.gpu.experts,
        policy=policy,
        solver=solver,
        forecaster=forecaster,
        contexts=sight,
        learned=learned,
        frequency_LE=options.frequency_LE,
        timed_as=tier.timed_as,
        degrade=True,
        recalibrate=options.recalibrate,
    )
