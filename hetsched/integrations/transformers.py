"""hetsched.attach: any transformers Mixture-of-Experts model, then plain model.generate(...)."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from ..accelerators.emulated import DEFAULT_SCALE
from ..engine.executor import LayerInput
from ..errors import InputError
from ..geometry import MoEGeometry
from ..profile import HardwareProfile
from ..types import FloatArray
from .attachment import PLACES, Attachment, Options, Place
from .expert_modules import IMPLEMENTATION, expert_modules, own_forward, was_selected
from .model_shape import announced_geometry, geometry_of, layers_of

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

    `hardware`: a machine of the gallery (emulated), a profile, a path, or None: this machine, with its GPU if torch
    finds one, to which all of the model but its experts is then moved until detach(); "cpu": this machine without GPU.
    `gpu_memory`: bytes for experts, a size ("8GiB") or a share of all experts ("25%"); None: what the GPU has beside
    the rest of the model. `solver`, `policy`, `accelerator`: names of installed plug-ins, "module:Class", or objects.
    `time_scale`: wall seconds per emulated second. `frequency_LE` [L, E]: tokens per expert in a calibration run.
    `stand_in_for`: gallery model whose layers' times the emulated machine takes instead of this model's.

    `cpu_kernel`: "eager" computes CPU experts as transformers does, bit for bit; "auto" takes the fastest lossless
    kernel by measurement; a kernel's name takes that one. None: eager on an emulated machine, auto on this one.

    Expert modules on meta are taken over at their first call; those made after attach (multi-token prediction) are
    computed by transformers and counted in `stats()["eager_calls"]`.

    Raises InputError for a model without routed experts or with experts of a kind that cannot be scheduled exactly, an
    impossible budget, an unknown name, or a model that is attached already; the model is then as it was.
    """
    register()
    modules = expert_modules(model)
    if any(module in PLACES for module in modules):
        raise InputError("this model is attached already; call detach() on its handle first")
    options = Options(
        hardware, gpu_memory, solver, policy, accelerator, time_scale, frequency_LE, stand_in_for, cpu_kernel
    )
    layers = layers_of(modules)
    geometry = geometry_of([tied[0] for tied in layers], getattr(model, "config", modules[0].config))
    attachment = Attachment(geometry, options)
    try:
        for tied in layers:
            attachment.adopt(tied)
        attachment.select(model)
    except BaseException:
        attachment.detach()
        raise
    return attachment


def attachment_of(model: torch.nn.Module) -> Attachment | None:
    """The handle of an attached model, also of one that attached itself (experts_implementation="hetsched")."""
    for module in model.modules():
        if module in PLACES:
            return PLACES[module].attachment
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
    """What transformers calls in place of the module's own forward.

    Router weights may also come for all experts, [T, E]; those of the chosen are then picked by id.
    """
    if module.training and torch.is_grad_enabled():
        raise InputError("hetsched runs inference only; call model.eval() or detach() before training")
    place = PLACES.get(module)
    if place is None:
        if was_selected(module.config):
            return _eager(module, hidden_TH, ids_TK, weights_TK)
        place = _attach_itself(module)
    arithmetic = place.arithmetic or place.attachment.take(module, place)
    if weights_TK.shape[1] == module.num_experts != ids_TK.shape[1]:
        weights_TK = weights_TK.gather(1, ids_TK.clamp(max=module.num_experts - 1))
    if _names_nobody(ids_TK, module.num_experts):
        out_TH = torch.zeros_like(hidden_TH)
    else:
        work = LayerInput(place.layer, module, hidden_TH, ids_TK, weights_TK, arithmetic)
        out_TH = place.attachment.engine.forward(work)
    place.served = True
    place.calls += 1
    return out_TH


def _names_nobody(ids_TK: torch.Tensor, num_experts: int) -> bool:
    """Whether there is nothing to decide: no token, or all experts on other ranks."""
    if not ids_TK.numel():
        return True
    return int(ids_TK[0, 0]) >= num_experts and int(ids_TK.min()) >= num_experts


def _eager(module: Any, hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor) -> torch.Tensor:
    """A module that nobody attached and whose config says hetsched all the same: made later, or of a sibling model."""
    for attachment in {id(place.attachment): place.attachment for place in list(PLACES.values())}.values():
        if attachment.owns_class_of(module):
            attachment.eager_calls += 1
    forwarded: torch.Tensor = own_forward(module)(module, hidden_TH, ids_TK, weights_TK)
    return forwarded


def _attach_itself(module: Any) -> Place:
    """A module of a model loaded with experts_implementation="hetsched", at its first forward pass."""
    with _LOCK:
        for place in list(PLACES.values()):
            if place.attachment.owns_config(module.config):
                place.attachment.adopt([module])
                return PLACES[module]
        from_environment = replace(
            _DEFAULTS,
            hardware=_DEFAULTS.hardware or os.environ.get("HETSCHED_HARDWARE"),
            gpu_memory=_DEFAULTS.gpu_memory or os.environ.get("HETSCHED_GPU_MEMORY"),
        )
        Attachment(announced_geometry(module), from_environment).adopt([module])
        return PLACES[module]
