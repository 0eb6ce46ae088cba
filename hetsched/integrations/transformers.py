"""hetsched.attach: any transformers Mixture-of-Experts model, then plain model.generate(...)."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from ..engine.interrupts import uninterrupted
from ..errors import InputError
from ..geometry import MoEGeometry
from ..machine.profile import HardwareProfile
from ..steering.file import Steering
from ..types import FloatArray
from .assembly import Options
from .attachment import Attachment, attachments
from .door import enter, refuse_training
from .expert_modules import IMPLEMENTATION, expert_modules, is_late, own_forward
from .load_report import report_of
from .model_shape import geometry_of, layers_of, rest_of
from .places import Place, place_of
from .places import attachment_of as attachment_of
from .running import running_model
from .torch_modes import not_compiled, plain_torch

_DEFAULTS = Options()
_LOCK = threading.Lock()
LATE: weakref.WeakSet[Any] = weakref.WeakSet()  # expert modules of self-attaching models that transformers computes


def attach(
    model: torch.nn.Module,
    *,
    hardware: str | Path | HardwareProfile | None = None,
    gpu_memory: str | int | None = None,
    solver: Any = "exact",
    policy: Any = "hetsched",
    accelerator: Any = None,
    time_scale: float | None = None,
    frequency_LE: FloatArray | None = None,
    stand_in_for: str | MoEGeometry | None = None,
    cpu_kernel: str | None = None,
    dense_kernel: str | None = None,
    gpu_precision: str | None = None,
    steer: str | Path | Steering | None = None,
    forecaster: Any = None,
    learned: str | Path | None = None,
    recalibrate: bool = True,
    context: int | None = None,
    batch: int = 1,
    follow_cache: bool = False,
    log: str | Path | None = None,
) -> Attachment:
    """Run a transformers model's experts under hetsched; `model.generate(...)` works as before.

    `hardware`: a machine of the gallery (emulated), a profile, a path, or None: this machine, with its GPU if torch
    finds one, to which all of the model but its experts is then moved until detach(); "cpu": this machine without GPU.
    `gpu_memory`: bytes for experts, a size ("8GiB") or a share of all experts ("25%"); None: what the memory plan
    leaves beside the rest of the model with `batch` sequences of `context` tokens (None: 4096, or all that the model
    was made for), or, with a warning, what the device has room for where that is less. `follow_cache`: slots are given
    back when the cache outgrows that plan, and taken again by the next request; see also the handle's resize().
    `solver`, `policy`, `accelerator`: names of installed plug-ins, "module:Class", or objects; so is `forecaster`, for
    a policy that asks one (None: the policy's own).
    `time_scale`: wall seconds per emulated second (None: 20). `frequency_LE` [L, E]: tokens per expert in a calibration
    run.
    `stand_in_for`: gallery model whose layers' times the emulated machine takes instead of this model's.

    `learned`: a file of what other runs have learned of this model's routing, read if it is there; detach() writes it
    with what this run adds. `recalibrate`: correct the profile's seconds by what is measured while the model runs;
    `stats()["predictions"]` says how far they were off. `log`: a file for what was decided and what it took, layer by
    layer (hetsched.runlog), written between requests and by detach(); at most 64 MiB of the first layers.

    `cpu_kernel`: "eager" computes CPU experts as transformers does, bit for bit; "auto" takes the fastest lossless
    kernel by measurement; a kernel's name takes that one. None: eager on an emulated machine, auto on this one. Packed
    experts have "packed" (unpacked in registers), "unpack" (before torch's product) and, LOSSY, "packed-int8", which
    rounds activations to 8 bits.

    `dense_kernel`: without a GPU, what multiplies by the weights of linear modules outside the experts (attention,
    shared experts, head). "auto": hetsched's own product ("packed", the same within rounding) for few tokens wherever
    it is faster by measurement, and for weights that a GGUF file has packed; "torch": torch's, bit for bit;
    "packed-int8": LOSSY, activations of packed weights rounded to bytes. None: torch where `cpu_kernel` is eager, else
    auto, as lossless as `cpu_kernel`.

    `gpu_precision`: None keeps every token exact. "int8" and "int4" (GGUF's Q8_0 and Q4_0), "fp8-block", "q6_k", "q4_k"
    and "mxfp4" fill the GPU with lossy copies: more experts fit and a copy is shorter, while the CPU goes on computing
    with the exact weights. "auto" takes exact, int8 or int4 by the placement problem under `gpu_memory`;
    `stats()["gpu_precision"]` says which.

    `steer`: LOSSY, a steering file of `hetsched analyse experts` whose experts are forced on or off at every token;
    `stats()["steered"]` says so.

    Expert modules on meta are taken over at their first call; those made after attach (multi-token prediction) are
    computed by transformers and counted in `stats()["eager_calls"]`.

    Raises InputError for a model without routed experts or with experts of a kind that cannot be scheduled exactly, an
    impossible budget, an unknown name, an option that would change nothing (`time_scale` where time is real or an
    accelerator object has its own; `policy` or `solver` without a GPU; a `forecaster` that the policy does not ask, or
    that needs what a model does not give: hidden states it does, and gates where its routers are linear maps), or a
    model that is attached already; the model is then as it was, and so it is after Ctrl-C.
    """
    register()
    modules = expert_modules(model)
    if any(place_of(module) for module in modules):
        raise InputError("this model is attached already; call detach() on its handle first")
    options = Options(
        hardware,
        gpu_memory,
        solver,
        policy,
        accelerator,
        time_scale,
        frequency_LE,
        stand_in_for,
        cpu_kernel,
        dense_kernel,
        gpu_precision,
        steer,
        forecaster,
        learned,
        recalibrate,
        context,
        batch,
        follow_cache,
        log,
    )
    return _attached(model, modules, options)


def _attached(model: torch.nn.Module, modules: list[Any], options: Options, runs_on: str = "") -> Attachment:
    """The model attached, or as it was: whatever comes in between, nothing is touched before it is known here.

    `runs_on`: kind of device that the model is running on at this moment, where it may not be moved.
    """
    made: list[Attachment] = []
    learning = torch.is_grad_enabled()
    try:
        _attach(made, model, modules, options, runs_on)
        return made[0]
    except BaseException:
        with uninterrupted():
            torch.set_grad_enabled(learning)  # an interrupt on the way out of a `with` block skips its end
            for attachment in made:
                attachment.detach()
        raise


@plain_torch()
def _attach(made: list[Attachment], model: torch.nn.Module, modules: list[Any], options: Options, runs_on: str) -> None:
    layers = layers_of(modules)
    geometry = geometry_of([tied[0] for tied in layers], getattr(model, "config", modules[0].config))
    first = [tied[0] for tied in layers]
    attachment = Attachment(geometry, options, first, rest_of(model, first))
    made.append(attachment)
    if runs_on and attachment.steering is not None:
        raise InputError(
            "a model that attaches itself has routed its first layer already and cannot be steered; call "
            "hetsched.attach(model, steer=...) before its first forward pass"
        )
    if not runs_on:
        attachment.bring(model)
    elif (wanted := attachment.engine.accelerator.device.type) not in ("cpu", runs_on):
        raise InputError(
            f"the model runs on {runs_on} and cannot move to {wanted} in the middle of its first forward pass; "
            "call hetsched.attach(model) before it"
        )
    for tied in layers:
        attachment.adopt(tied)
    attachment.multiply(model)
    attachment.steer(model, layers)
    attachment.look_ahead(model, layers)
    attachment.select(model)
    attachment.loaded = report_of(model)
    attachment.begin_log()


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
    """What transformers calls in place of the module's own forward, unless the door stands on the module already."""
    if (place := place_of(module)) is None:
        return _without_place(module, hidden_TH, ids_TK, weights_TK)
    return enter(place, hidden_TH, ids_TK, weights_TK)


@not_compiled
def _without_place(
    module: Any, hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor
) -> torch.Tensor:
    """A model's first call, which attaches it, or a module that is none of an attached model's."""
    refuse_training(module)
    known_late = module in LATE or is_late(module.config)
    place = None if known_late else _attach_itself(module, hidden_TH.device.type)
    if place is None:
        return _eager(module, hidden_TH, ids_TK, weights_TK)
    return enter(place, hidden_TH, ids_TK, weights_TK)


def _eager(module: Any, hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor) -> torch.Tensor:
    """A module that nobody attached and whose config says hetsched all the same: made later, or of a sibling model."""
    for attachment in attachments():
        if attachment.owns_class_of(module):
            attachment.eager_calls += 1
    forwarded: torch.Tensor = own_forward(module)(module, hidden_TH, ids_TK, weights_TK)
    return forwarded


def _attach_itself(module: Any, runs_on: str) -> Place | None:
    """The whole model that a module runs in, loaded with experts_implementation="hetsched", at its first forward pass.

    None for a module that came into its model after the others were attached, or whose model shares weights with an
    attached one: heads for multi-token prediction.
    """
    with _LOCK:
        if (place := place_of(module)) is not None:  # another thread was here first
            return place
        model = running_model(module)
        modules = expert_modules(model)
        if any(place_of(known) for known in modules) or _shares_weights(model):
            LATE.add(module)
        else:
            options = replace(
                _DEFAULTS,
                hardware=_set(_DEFAULTS.hardware, "HETSCHED_HARDWARE"),
                gpu_memory=_set(_DEFAULTS.gpu_memory, "HETSCHED_GPU_MEMORY"),
            )
            _attached(model, modules, options, runs_on)
        return place_of(module)


def _set(option: Any, variable: str) -> Any:
    """An option, or where it is not given, what the environment says; nothing but blanks counts as unset."""
    return (os.environ.get(variable, "").strip() or None) if option is None else option


def _shares_weights(model: torch.nn.Module) -> bool:
    """Whether an attached model has some of the same parameters."""
    own = {id(parameter) for parameter in model.parameters()}
    others = [other for attachment in attachments() if (other := attachment.model()) is not None]
    return any(id(parameter) in own for other in others for parameter in other.parameters())
