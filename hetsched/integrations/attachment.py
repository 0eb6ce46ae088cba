"""Attachment: one model whose experts hetsched runs, and the place of each of its expert modules."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from ..engine.expert_ffn import Arithmetic, parameter_names
from ..engine.host_store import Layout, refuse_unreadable
from ..engine.pinning import pinning_stats
from ..errors import InputError
from ..geometry import MoEGeometry
from ..scheduler import Scheduler
from .arithmetic import arithmetic_of
from .assembly import Options, assembled
from .dense_part import DensePart
from .expert_modules import Selection, selected_name
from .gpu_precision import precision_stats
from .phases import phase_of_call as phase_of_call
from .torch_modes import not_compiled, plain_torch, refuse_inference_tensor


@dataclass
class Place:
    """Where an expert module belongs. `arithmetic`: None until its weights are there; `served`: in this very call."""

    attachment: Attachment
    layer: int
    arithmetic: Arithmetic | None = None
    served: bool = False
    calls: int = 0


PLACES: weakref.WeakKeyDictionary[Any, Place] = weakref.WeakKeyDictionary()


class Attachment:
    """A model whose experts hetsched runs; detach() or leaving the `with` block restores the model exactly."""

    def __init__(self, geometry: MoEGeometry, options: Options, modules: Sequence[Any] = ()) -> None:
        self.hardware, self.tier, self.cpu_kernel, self.engine = assembled(geometry, options, modules)
        self.geometry = geometry
        self.eager_calls = 0
        self.loaded: dict[str, Any] | None = None  # how hetsched.load read the model
        self._layers: list[list[weakref.ref[Any]]] = []  # weak: the registry of modules holds this object
        self._bytes_L: list[int] = []
        self._arithmetic: dict[Any, Arithmetic] = {}
        self._selection = Selection()
        self._dense = DensePart()
        self._hooks: list[Any] = []
        self._attached = True
        self.model: Callable[[], torch.nn.Module | None] = lambda: None
        weakref.finalize(self, self.engine.close)

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that decides for this model."""
        return self.engine.scheduler

    def stats(self) -> dict[str, Any]:
        """What the run came to so far: RunStats as a dictionary, with the machine's name and memory.

        `expert_bytes_total`: what the experts take. `slot_waste_share`: of a slot, unused by the average expert, since
        all slots are as large as the largest. `pageable_share` of the experts' host memory is not pinned, for the
        `pageable_reason`; `loaded`: what hetsched.load says of its work. `modules_served` of `modules` have run here at
        least once; `eager_calls`: calls of expert modules made after attach, which transformers computes.
        """
        held_bytes, places = sum(self._bytes_L), [PLACES[module] for _, module in self._living()]
        return {
            "hardware": self.hardware.name,
            "accelerator": self.engine.accelerator.name,
            "emulated": self.engine.accelerator.emulated,
            "timed_as": self.scheduler.cost.geometry.name,
            "policy": self.scheduler.policy.name,
            "solver": self.scheduler.solver.name,
            "cpu_kernel": self.cpu_kernel.name,
            "cpu_kernel_reason": self.cpu_kernel.reason,
            **precision_stats(self.tier, self.engine.store),
            "gpu_expert_bytes": self.engine.gpu_expert_bytes,
            "expert_bytes_total": held_bytes,
            **pinning_stats(self.engine.store, self.engine.accelerator),
            "loaded": self.loaded,
            "slot_waste_share": 1 - held_bytes / self.geometry.total_expert_bytes if places else 0.0,
            "modules": len(places),
            "modules_served": sum(place.calls > 0 for place in places),
            "eager_calls": self.eager_calls,
            **self.scheduler.stats.as_dict(),
        }

    @plain_torch()
    def detach(self) -> None:
        """End the engine and restore the model exactly. May be called twice."""
        if not self._attached:
            return
        self._attached = False
        self._selection.restore()
        self._dense.restore()
        for hook in self._hooks:
            hook.remove()
        self.engine.close()
        for layer, references in enumerate(self._layers):
            modules = [module for module in (reference() for reference in references) if module is not None]
            held = [module for module in modules if PLACES[module].arithmetic is not None]
            if held:
                self.engine.give_back(layer, held[0])
                _tie(held[0], held[1:])
            for module in modules:
                PLACES.pop(module, None)
        self._layers.clear()

    def adopt(self, modules: list[Any]) -> int:
        """Take over one layer: an expert module, or several that share their parameters. Returns the layer's index.

        Modules on meta are taken at their first call, when their weights must be there.
        """
        layer = len(self._layers)
        self._layers.append([weakref.ref(module) for module in modules])
        self._bytes_L.append(Layout.of(modules[0]).row_bytes * modules[0].num_experts)
        for module in modules:
            place = PLACES[module] = Place(self, layer)
            self._hooks.append(module.register_forward_hook(_refuse_unserved))
            if not any(getattr(module, name).is_meta for name in parameter_names(module)):
                self.take(module, place)
        return layer

    @plain_torch()
    def take(self, module: Any, place: Place) -> Arithmetic:
        """Move a module's weights into the host store; where it rounds."""
        for name in parameter_names(module):
            refuse_unreadable(module, name)
            refuse_inference_tensor(module, name)
        key = type(module), *(getattr(module, name).dtype for name in parameter_names(module))
        if key not in self._arithmetic:
            self._arithmetic[key] = arithmetic_of(module)
        if self.engine.store.holds(place.layer):
            self.engine.store.share(place.layer, module)
        else:
            self.engine.adopt(place.layer, module)
        place.arithmetic = self._arithmetic[key]
        return place.arithmetic

    def bring(self, model: torch.nn.Module) -> None:
        """Bring the model's dense part to the device."""
        device = self.engine.accelerator.device
        if device.type != "cpu":
            self._dense.move(model, device)

    def select(self, model: torch.nn.Module) -> None:
        """Route the model's experts here, and follow its forward passes."""
        self.model = weakref.ref(model)
        for config in [module.config for _, module in self._living()] + [getattr(model, "config", None)]:
            if config is not None:
                self._selection.select(config)
        self._hooks.append(model.register_forward_pre_hook(self._begin_step, with_kwargs=True))
        self._hooks.append(model.register_forward_hook(self._end_step))

    def owns_class_of(self, module: Any) -> bool:
        """Whether a module of this attachment is of the same class."""
        return any(type(own) is type(module) for _, own in self._living())

    def _living(self) -> list[tuple[int, Any]]:
        """Adopted modules that still exist, with their layers."""
        found = ((layer, reference()) for layer, references in enumerate(self._layers) for reference in references)
        return [(layer, module) for layer, module in found if module is not None]

    @not_compiled
    def _begin_step(self, model: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.engine.begin_step(phase_of_call(args, kwargs))

    @not_compiled
    def _end_step(self, *_: Any) -> None:
        self.engine.end_step()
        self.engine.phase = None  # an inner module may be called next, and says nothing

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def _refuse_unserved(module: Any, args: Any, output: Any) -> None:
    """A forward hook: an adopted module that was not computed here is an error, since statistics would be wrong."""
    place = PLACES.get(module)
    if place is None:
        return
    if not place.served:
        raise InputError(
            f"the experts of layer {place.layer} ({type(module).__name__}) ran outside hetsched, with implementation "
            f"{selected_name(module.config)!r}; call detach() before changing it"
        )
    place.served = False


def _tie(module: Any, others: list[Any]) -> None:
    """Let other modules look at a module's parameters again."""
    for other in others:
        for name in parameter_names(module):
            getattr(other, name).data = getattr(module, name).data
