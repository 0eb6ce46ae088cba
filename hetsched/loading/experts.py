"""The experts of a model on meta, and their rows of the host store filled from a checkpoint.

Shapes: E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError
from ..integrations.expert_modules import expert_modules
from ..integrations.model_shape import layers_of, stored_bytes
from ..packed import layout_of, parameter_names
from .checkpoint import Checkpoint, Reader
from .conversion import all_experts, check_experts, converts_alone, copy_parameter, read_expert
from .sources import Sources


@dataclass
class Part:
    """One parameter [E, ...] of one layer's experts: its place, its names in the model (several where tied)."""

    layer: int
    piece: str
    names: list[str]
    shape: tuple[int, ...]
    dtype: torch.dtype
    sources: Sources | None = None


@dataclass
class ExpertPlan:
    """Where every expert parameter of a model comes from; nothing is read yet.

    `sources`: all conversions that make expert parameters. `rest`: names of the checkpoint's other tensors.
    """

    model: Any
    modules: list[Any]
    parts: dict[str, Part]
    sources: list[Sources]
    rest: list[str]

    @property
    def num_bytes(self) -> int:
        """Bytes that the experts' rows will take."""
        return stored_bytes(self.modules)

    @property
    def parameter_bytes(self) -> int:
        """The same without the rows' padding."""
        return sum(layout_of(module).num_bytes * module.num_experts for module in self.modules)

    @property
    def whole(self) -> list[Sources]:
        """What cannot be converted expert by expert."""
        return [sources for sources in self.sources if not converts_alone(sources)]


def plan_experts(model: Any, sources: list[Sources], checkpoint: Checkpoint) -> ExpertPlan:
    """Find the sources of every expert parameter. Raises InputError for one that the checkpoint does not hold."""
    layers = layers_of(expert_modules(model))
    parts = _parts(model, layers)
    used: list[Sources] = []
    shapes = {name: stored.shape for name, stored in checkpoint.tensors.items()}
    for found in sources:
        mine = [parts[name] for name in found.targets if name in parts]
        if not mine:
            continue
        used.append(found)
        for part in mine:
            if converts_alone(found):
                check_experts(found, part.shape, shapes)
            part.sources = part.sources or found
    for name, part in parts.items():
        if part.sources is None:
            raise InputError(f"no tensor of {checkpoint.folder} holds {name}; the checkpoint is incomplete")
    taken = {name for found in used for name in found.all_names}
    rest = [name for name in checkpoint.tensors if name not in taken]
    return ExpertPlan(model, [tied[0] for tied in layers], parts, used, rest)


@torch.no_grad()
def fill_experts(plan: ExpertPlan, reader: Reader, advance: Callable[[int], None]) -> dict[str, torch.Tensor]:
    """Read all experts into rows of the host store: parameters by name, views of those rows [E, ...].

    What conversions of experts make beside expert parameters is among the results. `advance` is told the bytes of what
    is in place as it comes.
    """
    stacked: dict[int, dict[str, torch.Tensor]] = {}
    filled: dict[str, torch.Tensor] = {}
    for sources in plan.sources:
        parts = {name: plan.parts[name] for name in sources.targets if name in plan.parts}
        for part in parts.values():
            if part.layer not in stacked:
                module = plan.modules[part.layer]
                layout = layout_of(module)
                stacked[part.layer] = layout.stacked(layout.allocate(module.num_experts))
        if all(part.sources is not sources for part in parts.values()):
            continue  # a second copy of tied experts
        views = {name: stacked[part.layer][part.piece] for name, part in parts.items()}
        if converts_alone(sources):
            _fill_one_by_one(sources, views[sources.target], plan.model, reader, advance)
        else:
            filled |= _fill_at_once(sources, views, plan.model, reader, advance)
        for name, part in parts.items():
            filled |= dict.fromkeys(part.names, views[name])
        reader.release()
    reader.close()
    return filled


def _parts(model: Any, layers: list[list[Any]]) -> dict[str, Part]:
    """Every expert parameter by each of its names."""
    paths: dict[Any, str] = {module: name for name, module in model.named_modules()}
    parts: dict[str, Part] = {}
    for layer, tied in enumerate(layers):
        for piece in parameter_names(tied[0]):
            parameter = getattr(tied[0], piece)
            names = [f"{paths[module]}.{piece}".lstrip(".") for module in tied]
            part = Part(layer, piece, names, tuple(parameter.shape), parameter.dtype)
            parts |= dict.fromkeys(names, part)
    return parts


def _fill_one_by_one(
    sources: Sources, view: torch.Tensor, model: Any, reader: Reader, advance: Callable[[int], None]
) -> None:
    for e in range(len(view)):
        read_expert(sources, reader, e, model, view)
        advance(view[e].nbytes)
        reader.release()


def _fill_at_once(
    sources: Sources, views: dict[str, torch.Tensor], model: Any, reader: Reader, advance: Callable[[int], None]
) -> dict[str, torch.Tensor]:
    """One layer of experts, converted together; returns what else came of it."""
    dtype = next(iter(views.values())).dtype
    made = all_experts(sources, reader, model, dtype)
    for name, view in views.items():
        if name not in made:
            raise InputError(f"transformers made no {name} of {sources.all_names[0]} and others")
        copy_parameter(name, made.pop(name), view)
        advance(view.nbytes)
    return {name: tensor.clone() for name, tensor in made.items()}
