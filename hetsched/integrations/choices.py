"""What the options of attach() name, looked up and checked before anything is allocated.

attach() makes what it runs from these choices, and loading asks for them before it reads: what one refuses, both do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError, UnknownNameError
from ..files import check_file, user_path
from ..forecast.fed import LIVE, refuse_needs
from ..forecast.given import check_frequency
from ..geometry import MoEGeometry
from ..learned import load
from ..machine import gallery
from ..machine.hardware import is_this_machine, resolve_hardware
from ..machine.profile import HardwareProfile
from ..machine.sizes import parse_bytes
from ..memory.plan import MemoryPlan, require_at_least_one
from ..plugins import plugin
from ..scheduler import DEFAULT_SOLVER, refuse_idle_forecaster, refuse_idle_solver
from ..steering.file import Steering, read_steering
from ..tiers import Tier
from ..types import FloatArray
from .budget import accelerator_for, planned, refuse_idle_scale
from .cpu_lane import check_cpu_kernel, refuse_decisions
from .dense_kernel import check_dense_kernel
from .gpu_precision import check_gpu_precision, tier_for
from .model_shape import RestOfModel
from .option_kinds import check_kinds


@dataclass(frozen=True)
class Options:
    """How to attach; every field has an automatic choice. See attach(). Raises InputError for values of other kinds."""

    hardware: str | Path | HardwareProfile | None = None
    gpu_memory: str | int | None = None
    solver: Any = DEFAULT_SOLVER
    policy: Any = "hetsched"
    accelerator: Any = None
    time_scale: float | None = None
    frequency_LE: FloatArray | None = None
    stand_in_for: str | MoEGeometry | None = None
    cpu_kernel: str | None = None
    dense_kernel: str | None = None
    gpu_precision: str | None = None
    steer: str | Path | Steering | None = None
    forecaster: Any = None
    learned: str | Path | None = None
    recalibrate: bool = True
    context: int | None = None
    batch: int = 1
    follow_cache: bool = False
    log: str | Path | None = None

    def __post_init__(self) -> None:
        check_kinds(self.__dict__)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """From attach()'s keyword arguments. Raises UnknownNameError for one that it does not have."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise UnknownNameError("option", name, known)
        return cls(**given)


class Choices(NamedTuple):
    """What the names among the options stand for; `here`: the machine is this one. `cpu_only`: it has no GPU to use.

    `steering`: None where nothing is forced.
    """

    hardware: HardwareProfile
    here: bool
    cpu_only: bool
    timed_as: MoEGeometry | None
    steering: Steering | None


class Sizes(NamedTuple):
    """What of a model goes where, and what the GPU's slots hold."""

    plan: MemoryPlan
    tier: Tier


def choices_of(options: Options, geometry: MoEGeometry | None = None) -> Choices:
    """Everything that the options name. Raises InputError for what attach() would refuse of any model.

    That includes options that would change nothing.

    `geometry`: of the model, where it is known: this machine's profile is the one measured for it, and kernels are
    those for its weights.
    """
    policy = plugin("hetsched.policies", options.policy)
    plugin("hetsched.solvers", options.solver)
    if options.forecaster is not None:
        refuse_needs(plugin("hetsched.forecasters", options.forecaster), LIVE)
    hardware, here = resolve_hardware(options.hardware, geometry), is_this_machine(options.hardware)
    cpu_only = options.accelerator is None and hardware.gpu is None
    refuse_idle_scale(options.time_scale, options.accelerator, hardware, here)
    if cpu_only:
        refuse_decisions(options.policy, options.solver, options.forecaster, options.learned, hardware)
    else:
        refuse_idle_solver(policy, options.solver)
        refuse_idle_forecaster(policy, options.forecaster)
    if options.log is not None:
        check_file(user_path(options.log))
    if options.learned is not None:
        check_file(user_path(options.learned))
        if geometry is not None:
            load(user_path(options.learned), geometry)
    if isinstance(options.gpu_memory, str):
        parse_bytes(options.gpu_memory, whole_bytes=0)
    for name, value in (("context", options.context), ("batch", options.batch)):
        if value is not None:
            require_at_least_one(name, value)
    if geometry is not None:
        check_frequency(options.frequency_LE, geometry)
    check_gpu_precision(options.gpu_precision, hardware)
    check_cpu_kernel(options.cpu_kernel, geometry.dtype if geometry else None)
    check_dense_kernel(options.dense_kernel, hardware, cpu_only)
    steering = _steering(options.steer, geometry)
    return Choices(hardware, here, cpu_only, _stand_in(options.stand_in_for, hardware, here), steering)


def sizes_of(
    names: Choices, options: Options, geometry: MoEGeometry, modules: Sequence[Any], rest: RestOfModel
) -> Sizes:
    """What of a model goes where. `modules`: one expert module a layer. Raises InputError for what cannot fit."""
    hardware, context, batch = names.hardware, options.context, options.batch
    plan = planned(options.gpu_memory, geometry, hardware, rest, context, batch)
    wanted, frequency_LE = options.gpu_precision, options.frequency_LE
    budget_bytes = (
        plan.expert_room_bytes
        if options.gpu_memory is None
        else parse_bytes(options.gpu_memory, geometry.all_slots_bytes)
    )
    tier = tier_for(wanted, modules, geometry, hardware, names.timed_as, budget_bytes, frequency_LE)
    if tier.precision is not None:
        asked = None if options.gpu_memory is None else budget_bytes
        plan = planned(asked, tier.slots, hardware, rest.with_copies(tier.slots), context, batch)
    return Sizes(plan, tier)


def check_options(given: Mapping[str, Any]) -> None:
    """Raise InputError for what attach() would refuse of any model; an accelerator is made, and closed again."""
    options = Options.of(given)
    names = choices_of(options)
    made = accelerator_for(options.accelerator, names.hardware, options.time_scale, names.here)
    if made is not options.accelerator:
        made.close()


def check_options_for(
    given: Mapping[str, Any], geometry: MoEGeometry, modules: Sequence[Any], rest: RestOfModel
) -> None:
    """Raise InputError for what attach() would refuse of this model, whose modules may be on meta."""
    options = Options.of(given)
    sizes_of(choices_of(options, geometry), options, geometry, modules, rest)


def _steering(spec: str | Path | Steering | None, geometry: MoEGeometry | None) -> Steering | None:
    """What is to be forced. Raises InputError for a file that is none, or is another model's."""
    steering = read_steering(spec) if isinstance(spec, str | Path) else spec
    if steering is not None and geometry is not None:
        steering.check_model(geometry)
    return steering


def _stand_in(spec: str | MoEGeometry | None, hardware: HardwareProfile, here: bool) -> MoEGeometry | None:
    """The model whose seconds the layers take. Raises InputError where time is real."""
    if spec is not None and (here or hardware.gpu is None):
        raise InputError(f"stand_in_for {spec} needs an emulated machine, and {hardware.name} is this one")
    return gallery.model(spec) if isinstance(spec, str) else spec
