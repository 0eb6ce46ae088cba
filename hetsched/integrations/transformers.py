"""hetsched.attach: any transformers Mixture-of-Experts model, then plain model.generate(...)."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from .. import gallery
from ..accelerators.emulated import DEFAULT_SCALE
from ..engine.engine import Engine
from ..engine.executor import LayerInput
from ..engine.host_store import Layout
from ..errors import InputError
from ..geometry import MoEGeometry, from_config
from ..hardware import resolve_hardware
from ..profile import HardwareProfile
from ..scheduler import Scheduler
from ..types import FloatArray, Phase
from .budget import accelerator_for, gpu_budget_bytes
from .cpu_lane import cpu_kernel_for, dtype_name
from .expert_modules import IMPLEMENTATION, Selection, expert_modules, own_forward


@dataclass(frozen=True)
class Options:
    """How to attach; every field has an automatic choice. See attach()."""

    hardware: str | Path | HardwareProfile | None = None
    gpu_memory: str | int | None = None
    solver: Any = "exact"
    policy: Any = "hetsched"
    accelerator: Any = None
    time_scale: float = DEFAULT_SCALE
    frequency_LE: FloatArray | None = None
    stand_in_for: str | MoEGeometry | None = None
    cpu_kernel: str | None = None


class Attachment:
    """A model whose experts hetsched runs; detach() or leaving the `with` block restores the model exactly."""

    def __init__(self, geometry: MoEGeometry, options: Options) -> None:
        self.hardware = resolve_hardware(options.hardware, geometry)
        self.geometry = geometry
        budget_bytes = gpu_budget_bytes(options.gpu_memory, geometry, self.hardware)
        timed_as = options.stand_in_for
        if timed_as is not None and self.hardware.gpu is None:
            raise InputError(f"stand_in_for {timed_as} needs an emulated machine, and {self.hardware.name} is this one")
        scheduler = Scheduler(
            geometry,
            self.hardware,
            budget_bytes,
            policy=options.policy,
            solver=options.solver,
            frequency_LE=options.frequency_LE,
            timed_as=gallery.model(timed_as) if isinstance(timed_as, str) else timed_as,
        )
        accelerator = accelerator_for(options.accelerator, self.hardware, options.time_scale)
        try:
            self.cpu_kernel = cpu_kernel_for(options.cpu_kernel, geometry, self.hardware, accelerator.emulated)
            self.engine = Engine(scheduler, accelerator, self.cpu_kernel.linear)
        except BaseException:
            accelerator.close()
            raise
        self._modules: list[weakref.ref[Any]] = []  # weak: the registry of modules holds this object
        self._selection = Selection()
        self._hooks: list[Any] = []
        self._attached = True
        weakref.finalize(self, self.engine.close)

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that decides for this model."""
        return self.engine.scheduler

    def stats(self) -> dict[str, Any]:
        """What the run came to so far: RunStats as a dictionary, with the machine's name and memory."""
        return {
            "hardware": self.hardware.name,
            "accelerator": self.engine.accelerator.name,
            "emulated": self.engine.accelerator.emulated,
            "timed_as": self.scheduler.cost.geometry.name,
            "policy": self.scheduler.policy.name,
            "solver": self.scheduler.solver.name,
            "cpu_kernel": self.cpu_kernel.name,
            "cpu_kernel_reason": self.cpu_kernel.reason,
            "gpu_expert_bytes": self.engine.gpu_expert_bytes,
            "expert_bytes_total": self.geometry.total_expert_bytes,
            **self.scheduler.stats.as_dict(),
        }

    def detach(self) -> None:
        """End the engine and restore the model exactly. May be called twice."""
        if not self._attached:
            return
        self._attached = False
        self._selection.restore()
        for hook in self._hooks:
            hook.remove()
        self.engine.close()
        for layer, module in self._living():
            self.engine.give_back(layer, module)
            _RUNTIMES.pop(module, None)
        self._modules.clear()

    def adopt(self, module: Any) -> int:
        """Take over one expert module as the next layer; its index."""
        layer = len(self._modules)
        if layer >= self.geometry.num_layers:
            raise InputError(f"{type(module).__name__} is layer {layer + 1} of {self.geometry.num_layers} announced")
        self.engine.adopt(layer, module)
        self._modules.append(weakref.ref(module))
        _RUNTIMES[module] = self, layer
        return layer

    def select(self, model: torch.nn.Module) -> None:
        """Route the model's experts here, and follow its forward passes."""
        for config in [module.config for _, module in self._living()] + [getattr(model, "config", None)]:
            if config is not None:
                self._selection.select(config)
        self._hooks.append(model.register_forward_pre_hook(self._begin_step, with_kwargs=True))
        self._hooks.append(model.register_forward_hook(lambda *_: self.engine.end_step()))

    def owns_config(self, config: Any) -> bool:
        """Whether a module of this attachment has this very config."""
        return any(module.config is config for _, module in self._living())

    def serves_config(self, config: Any) -> bool:
        """Whether this attachment selected hetsched in `config`."""
        return self._selection.before(config) is not None

    def _living(self) -> list[tuple[int, Any]]:
        """Adopted modules that still exist, with their layers."""
        found = ((layer, reference()) for layer, reference in enumerate(self._modules))
        return [(layer, module) for layer, module in found if module is not None]

    def _begin_step(self, model: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.engine.begin_step(_phase(args, kwargs))

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


_RUNTIMES: weakref.WeakKeyDictionary[Any, tuple[Attachment, int]] = weakref.WeakKeyDictionary()
_DEFAULTS = Options()
_LOCK = threading.Lock()


def attach(
    model: torch.nn.Module,
    *,
    hardware: str | Path | HardwareProfile | None = None,
    gpu_memory: str | int | None = None,
    solver: Any = "exact",
    policy: Any = "hetsched",
    accelerator: Any = None,
    time_scale: float = DEFAULT_SCALE,
    frequency_LE: FloatArray | None = None,
    stand_in_for: str | MoEGeometry | None = None,
    cpu_kernel: str | None = None,
) -> Attachment:
    """Run a transformers model's experts under hetsched; `model.generate(...)` works as before.

    `hardware`: a machine of the gallery (emulated), a profile, a path, or None: this machine's CPU. `gpu_memory`: bytes
    for experts, a size ("8GiB") or a share of all experts ("25%"); None: what the GPU has beside the rest of the model.
    `solver`, `policy`, `accelerator`: names of installed plug-ins, "module:Class", or objects. `time_scale`: wall
    seconds per emulated second. `frequency_LE` [L, E]: tokens per expert in a calibration run. `stand_in_for`: gallery
    model whose layers' times the emulated machine takes instead of this model's.

    `cpu_kernel`: "eager" computes CPU experts as transformers does, bit for bit; "auto" takes the fastest lossless
    kernel by measurement; a kernel's name takes that one. None: eager on an emulated machine, auto on this one.

    Raises InputError for a model without routed experts, an impossible budget, an unknown name, or a model that is
    attached already; the model is then as it was.
    """
    register()
    modules = expert_modules(model)
    if any(module in _RUNTIMES for module in modules):
        raise InputError("this model is attached already; call detach() on its handle first")
    options = Options(
        hardware, gpu_memory, solver, policy, accelerator, time_scale, frequency_LE, stand_in_for, cpu_kernel
    )
    attachment = Attachment(_geometry(modules, getattr(model, "config", modules[0].config)), options)
    try:
        for module in modules:
            attachment.adopt(module)
        attachment.select(model)
    except BaseException:
        attachment.detach()
        raise
    return attachment


def attachment_of(model: torch.nn.Module) -> Attachment | None:
    """The handle of an attached model, also of one that attached itself (experts_implementation="hetsched")."""
    for module in model.modules():
        if module in _RUNTIMES:
            return _RUNTIMES[module][0]
    return None


def register() -> None:
    """Make `experts_implementation="hetsched"` known to transformers."""
    if IMPLEMENTATION not in ALL_EXPERTS_FUNCTIONS:
        ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _experts_forward)


@contextlib.contextmanager
def defaults(**options: Any) -> Iterator[None]:
    """How models loaded with experts_implementation="hetsched" attach themselves at their first forward pass.

    Takes attach()'s arguments. Outside such a block HETSCHED_HARDWARE and HETSCHED_GPU_MEMORY are read.
    """
    global _DEFAULTS
    known = {field.name for field in fields(Options)}
    if unknown := set(options) - known:
        raise InputError(f"unknown option {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}")
    register()
    before, _DEFAULTS = _DEFAULTS, replace(_DEFAULTS, **options)
    try:
        yield
    finally:
        _DEFAULTS = before


def _experts_forward(
    module: Any, hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor
) -> torch.Tensor:
    """What transformers calls in place of the module's own forward."""
    if module.training and torch.is_grad_enabled():
        raise InputError("hetsched runs inference only; call model.eval() or detach() before training")
    runtime = _RUNTIMES.get(module)
    if runtime is None:
        if any(attachment.serves_config(module.config) for attachment, _ in list(_RUNTIMES.values())):
            forwarded: torch.Tensor = own_forward(module)(module, hidden_TH, ids_TK, weights_TK)
            return forwarded  # another model that shares its config object with an attached one
        runtime = _attach_itself(module)
    attachment, layer = runtime
    return attachment.engine.forward(LayerInput(layer, module, hidden_TH, ids_TK, weights_TK))


def _attach_itself(module: Any) -> tuple[Attachment, int]:
    """A module of a model loaded with experts_implementation="hetsched", at its first forward pass."""
    with _LOCK:
        for attachment, _ in list(_RUNTIMES.values()):
            if attachment.owns_config(module.config):
                return attachment, attachment.adopt(module)
        from_environment = replace(
            _DEFAULTS,
            hardware=_DEFAULTS.hardware or os.environ.get("HETSCHED_HARDWARE"),
            gpu_memory=_DEFAULTS.gpu_memory or os.environ.get("HETSCHED_GPU_MEMORY"),
        )
        attachment = Attachment(_geometry([module], module.config), from_environment)
        return attachment, attachment.adopt(module)


def _geometry(modules: list[Any], config: Any) -> MoEGeometry:
    """The model's geometry, with bytes as the modules really have them; one module stands for all of its config."""
    shape = from_config(config)
    layers = len(modules) if len(modules) > 1 else shape.num_layers
    row_bytes = max(Layout.of(module).row_bytes for module in modules)
    dtype = dtype_name(modules[0].down_proj.dtype)
    experts = max(module.num_experts for module in modules)
    return replace(shape, num_layers=layers, num_experts=experts, dtype=dtype, expert_bytes_override=row_bytes)


def _phase(args: Any, kwargs: dict[str, Any]) -> Phase | None:
    """The phase of a forward pass: with a filled cache, one new token is decode and more are verify."""
    tokens = kwargs.get("input_ids", args[0] if args else None)
    tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
    if tokens is None:
        return None
    cache = kwargs.get("past_key_values")
    filled = cache is not None and cache.get_seq_length() > 0
    if not filled:
        return Phase.PREFILL
    return Phase.DECODE if tokens.shape[1] == 1 else Phase.VERIFY
