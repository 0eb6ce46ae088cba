"""Attachment: one model whose experts hetsched runs, and the place of each of its expert modules."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

import torch

from ..engine.expert_ffn import Arithmetic
from ..engine.host_store import refuse_unreadable
from ..engine.interrupts import uninterrupted
from ..errors import InputError
from ..files import user_path
from ..geometry import MoEGeometry
from ..learned import save
from ..memory.plan import MemoryPlan
from ..packed import layout_of, parameter_names
from ..runlog.opening import open_log
from ..scheduler import Scheduler
from .arithmetic import arithmetic_of
from .assembly import Options, assembled
from .dense_kernel import DenseLane
from .dense_part import DensePart
from .door import close_door, open_door
from .expert_modules import Selection
from .fewer_experts import FewerExperts
from .model_shape import RestOfModel
from .phases import begins_request
from .phases import phase_of_call as phase_of_call
from .places import Place, SavedCopies, forget, put, take_off
from .room import Room
from .routers import routers_of
from .second_try import SecondTry
from .stats import stats_of
from .steering import SteeredModel
from .torch_modes import not_compiled, plain_torch, refuse_inference_tensor
from .weight_watch import WeightWatch

if TYPE_CHECKING:
    from ..runlog.recording import LayerLog
    from .speculation import Speculation

_LIVING: weakref.WeakSet[Attachment] = weakref.WeakSet()


class Attachment:
    """A model whose experts hetsched runs; detach() or leaving the `with` block restores the model exactly.

    Weights that are written to meanwhile are noticed at the next forward pass, and what was copied from them is copied
    again; see reload() for writes that nothing can notice. Neither it nor its model can be copied or pickled. A model
    that is dropped instead is freed with all that belongs to it, threads included.
    """

    def __init__(self, geometry: MoEGeometry, options: Options, modules: Sequence[Any], rest: RestOfModel) -> None:
        made = assembled(geometry, options, modules, rest)
        self.hardware, self.tier, self.cpu_kernel, self.engine, self.steering, self._memory, plan = made
        self.room = Room(self.engine, plan, self.tier, geometry, rest, options.follow_cache)
        self._may_shrink = options.gpu_memory is None
        self._second_try = SecondTry(self.room.make_room)
        self._learned, self._log = options.learned, options.log
        self.run_log: LayerLog | None = None
        self.geometry = geometry
        self.eager_calls = 0
        self.loaded: dict[str, Any] | None = None  # how hetsched.load read the model
        self.saved = SavedCopies()
        self._layers: list[list[weakref.ref[Any]]] = []  # weak: modules come and go as their model likes
        self._bytes_L: list[int] = []
        self._arithmetic: dict[Any, Arithmetic] = {}
        self._selection = Selection()
        self._dense = DensePart()
        self.dense_lane = DenseLane(options.dense_kernel, self.engine, self.cpu_kernel)
        self._steered = SteeredModel()
        self._weights = WeightWatch()
        self.fewer: FewerExperts | None = None  # while the model drafts for itself
        self.in_step = False  # configs and weights have been looked at in this forward pass
        self._attached = True
        self.model: Callable[[], torch.nn.Module | None] = lambda: None
        _LIVING.add(self)

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that decides for this model."""
        return self.engine.scheduler

    def stats(self) -> dict[str, Any]:
        """What the run came to so far: RunStats as a dictionary, with the machine's name and memory; see stats_of."""
        return stats_of(self, [module for _, module in self._living()], sum(self._bytes_L))

    @property
    def plan(self) -> MemoryPlan:
        """The memory plan: what it was made of at attach, or at the last resize()."""
        return self.room.plan

    @plain_torch()
    def resize(
        self, gpu_memory: str | int | None = None, *, context: int | None = None, batch: int | None = None
    ) -> None:
        """Between steps, give experts more or less of the GPU: `gpu_memory` as in attach(), None: what a plan leaves.

        That plan is for `context` and `batch`, or for those of the last one. Experts that are worth least leave, their
        memory is given back, and slots that are new fill as the policy likes. Tokens stay as they are. Raises
        InputError for what cannot be, and nothing has changed.
        """
        self.room.resize(gpu_memory, context, batch)

    @plain_torch()
    def make_room(self, num_bytes: int) -> int:
        """For whoever finds no memory on the device: slots of so many bytes are given back, or all there are.

        Returns the bytes given back, and counts the fault.
        """
        return self.room.make_room(num_bytes)

    def speculate(self, draft: Any = "prompt-lookup", k: int | str = "auto", **more: Any) -> Speculation:
        """In a `with` block, let `model.generate(...)` verify drafts, several tokens in one pass.

        `draft`: "prompt-lookup", what followed the last tokens when they stood in the text before; "self", the model
        with only those experts that are on the GPU; or a model with the same tokenizer, attached or not. `k`: "auto",
        as many drafts as make the text grow fastest, by the acceptance and the times seen so far; a number, always
        so many; or "off". `told=`: called with the drafted ids before they are verified.

        Greedy text is what it is without, sampled text has the same distribution. Raises InputError for a model without
        generate(), a draft of another vocabulary, and in generate() for beams, batches and stop strings.
        """
        from .speculation import Speculation

        self.require_attached()
        return Speculation(self, self.model(), draft, k, **more)

    def require_attached(self) -> None:
        """Raise InputError where the model was detached."""
        if not self._attached:
            raise InputError("this handle's model was detached; attach it again")

    @plain_torch()
    def detach(self) -> None:
        """End the engine and restore the model exactly. May be called twice, also after an interrupt in between.

        The log and what was learned are written last; raises InputError where a file cannot be.
        """
        if not self._attached:
            return
        stats = self.stats() if self.run_log is not None else {}
        with uninterrupted():
            self._selection.restore()
            self._second_try.take_off()
            self._steered.take_off()
            self.dense_lane.take_off()
            self._dense.restore()
            if (model := self.model()) is not None:
                take_off(model, self)
            for _, module in self._living():
                take_off(module)
                close_door(module)
        self.engine.close()  # waits for the layer under way, and so must not hold Ctrl-C back
        with uninterrupted():
            for layer, references in enumerate(self._layers):
                modules = [module for module in (reference() for reference in references) if module is not None]
                self.engine.give_back(layer, *modules)
                for module in modules:
                    forget(module)
            self._layers.clear()
            self._attached = False
        if self.run_log is not None:
            self.run_log.end(stats)
        if self._memory is not None and self._learned is not None and self.scheduler.stats.layers:
            save(user_path(self._learned), self._memory.after(self.scheduler))

    def reload(self) -> None:
        """Copy all that is on the GPU anew from the model's weights.

        Only needed after writes that leave no trace: in place through `.data`, or through NumPy. What torch counts as
        a write (load_state_dict, an optimiser's step, `parameter.copy_`) is noticed by itself.
        """
        stored = [layer for layer in range(len(self._layers)) if self.engine.store.holds(layer)]
        self._reload(stored, self._weights.look())

    def look(self) -> None:
        """Reload what was written to since the last look.

        Raises InputError where weights were replaced, or a config was told to compute experts in another way.
        """
        self._selection.refuse_other_ways(self._living())
        versions = self._weights.look()
        if changed := self._weights.changed(versions):
            self._reload(changed, versions)

    @plain_torch()
    def _reload(self, layers: list[int], versions: list[int]) -> None:
        self.engine.reload(layers)
        if self.run_log is not None:
            self.run_log.event("reload", f"weights of {len(layers)} layers were written to and copied again")
        self._weights.seen(versions)

    def adopt(self, modules: list[Any]) -> int:
        """Take over one layer: an expert module, or several that share their parameters. Returns the layer's index.

        Modules on meta are taken at their first call, when their weights must be there.
        """
        layer = len(self._layers)
        self._layers.append([weakref.ref(module) for module in modules])
        self._bytes_L.append(layout_of(modules[0]).row_bytes * modules[0].num_experts)
        for module in modules:
            place = Place(self, weakref.ref(module), layer, module is modules[0])
            put(module, place)
            open_door(module, place)
            if not any(getattr(module, name).is_meta for name in parameter_names(module)):
                self._take(module, place)
        return layer

    @plain_torch()
    def take(self, module: Any, place: Place) -> Arithmetic:
        """Move a module's weights into the host store, which were not there at attach; where it rounds."""
        return self._take(module, place)

    def _take(self, module: Any, place: Place) -> Arithmetic:
        for name in parameter_names(module):
            refuse_unreadable(module, name)
            refuse_inference_tensor(module, name)
        key = type(module), *(getattr(module, name).dtype for name in parameter_names(module))
        if key not in self._arithmetic:
            self._arithmetic[key] = arithmetic_of(module)
        if self.engine.store.holds(place.layer):
            self.engine.store.share(place.layer, module)
        else:
            try:
                self.engine.adopt(place.layer, module)
            except BaseException:
                with uninterrupted():
                    self.engine.give_back(place.layer, module)
                raise
        self._weights.watch(place.layer, module)
        place.arithmetic = self._arithmetic[key]
        return place.arithmetic

    def bring(self, model: torch.nn.Module) -> None:
        """Bring the model's dense part to the device, where experts give way if nobody has named their memory."""
        self._dense.bring(model, self.engine.accelerator.device, self.room.make_room if self._may_shrink else None)

    def multiply(self, model: torch.nn.Module) -> None:
        """Take our own products for the model's linear modules where they are faster."""
        self.dense_lane.put_on(model)
        self._dense.unpack(model)

    def steer(self, model: torch.nn.Module, layers: Sequence[Sequence[Any]]) -> None:
        """Force experts on and off in the model's routers, where that was asked for."""
        if self.steering is not None:
            self._steered.put_on(model, layers, self.steering)

    def look_ahead(self, model: torch.nn.Module, layers: Sequence[Sequence[Any]]) -> None:
        """Read the model's routers, as they are steered, where the forecaster needs their gates."""
        sight = getattr(self.engine, "sight", None)
        if sight is not None and "gates" in sight.needs:
            sight.routers = routers_of(model, layers)

    def select(self, model: torch.nn.Module) -> None:
        """Route the model's experts here, and follow its forward passes."""
        self.model = weakref.ref(model)
        for config in [module.config for _, module in self._living()] + [getattr(model, "config", None)]:
            if config is not None:
                self._selection.select(config)
        if self.scheduler.residency.num_slots:
            self._second_try.put_on(model)
        model.register_forward_pre_hook(self._begin_step, with_kwargs=True)
        model.register_forward_hook(self._end_step)

    def begin_log(self) -> None:
        """Log the run from here on, where that was asked for."""
        if self._log is not None:
            clock, lossless = "emulated" if self.engine.accelerator.emulated else "measured", self.stats()["lossless"]
            self.run_log = open_log(self.scheduler, self._log, self.tier.hardware, clock, lossless=lossless)

    def owns_class_of(self, module: Any) -> bool:
        """Whether a module of this attachment is of the same class."""
        return any(type(own) is type(module) for _, own in self._living())

    def _living(self) -> list[tuple[int, Any]]:
        """Adopted modules that still exist, with their layers."""
        found = ((layer, reference()) for layer, references in enumerate(self._layers) for reference in references)
        return [(layer, module) for layer, module in found if module is not None]

    @not_compiled
    def _begin_step(self, model: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        new_request = begins_request(args, kwargs)
        self.engine.begin_step(phase_of_call(args, kwargs), new_request, self.fewer is not None)
        if self.room.follow_cache:
            self.room.follow(args, kwargs, new_request)
        self.look()
        self.in_step = True

    @not_compiled
    def _end_step(self, *_: Any) -> None:
        self.in_step = False
        self.engine.end_step()
        self.engine.phase = None  # an inner module may be called next, and says nothing

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise InputError(
            "an attached model cannot be copied or pickled, for its experts run in threads of this process; call "
            "detach() first, or save it with save_pretrained or state_dict()"
        )


def attachments() -> list[Attachment]:
    """Every attachment of a model that lives."""
    return [attachment for attachment in list(_LIVING) if any(attachment._living())]
