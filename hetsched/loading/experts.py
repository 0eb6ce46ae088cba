"""The experts of a model on meta, and their rows of the host store filled from a checkpoint.

Shapes: E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..errors import InputError
from ..integrations.expert_modules import expert_modules
from ..integrations.model_shape import layers_of, stored_bytes
from ..packed import (
    Layout,
    PackedLayout,
    PackedPiece,
    Piece,
    StoredAs,
    layout_of,
    packed_layout,
    parameter_names,
    put_packed,
)
from .checkpoint import Checkpoint, Reader
from .conversion import all_experts, check_experts, converts_alone, copy_parameter, read_expert
from .packed_experts import PackedSource, fill_packed, packed_source
from .packed_tensors import PackedTensor
from .sources import Sources


@dataclass
class Part:
    """One parameter [E, ...] of one layer's experts: its place, its names in the model (several where tied).

    `packed`: where its matrices are, if it stays as it is packed.
    """

    layer: int
    piece: str
    names: list[str]
    shape: tuple[int, ...]
    dtype: torch.dtype
    sources: Sources | None = None
    packed: PackedSource | None = None


@dataclass
class ExpertPlan:
    """Where every expert parameter of a model comes from; nothing is read yet.

    `modules`: on meta, of each layer those that share their parameters; the packed ones have packed parameters.
    `sources`: all conversions that make expert parameters. `rest`: names of the checkpoint's other tensors.
    """

    model: Any
    layers: list[list[Any]]
    parts: dict[str, Part]
    sources: list[Sources]
    rest: list[str]

    @property
    def num_bytes(self) -> int:
        """Bytes that the experts' rows will take."""
        return stored_bytes([tied[0] for tied in self.layers])

    @property
    def rest_bytes(self) -> int:
        """Bytes of all other parameters."""
        return sum(value.nbytes for name, value in self.model.named_parameters() if name not in self.parts)

    @property
    def packed(self) -> list[PackedTensor]:
        """What of the checkpoint stays as it is packed."""
        sources = [part.packed for part in self.parts.values() if part.packed is not None]
        return [tensor for source in sources for tensors in source.matrices for tensor in tensors]

    @property
    def whole(self) -> list[Sources]:
        """What cannot be converted expert by expert."""
        return [sources for sources in self.sources if not converts_alone(sources)]


class Filled(NamedTuple):
    """Experts in rows of the host store: `weights` by name, views of rows, and what else their conversions made.

    `packed`: layout and rows of the layers with packed parameters, for which the weights are stand-ins.
    """

    weights: dict[str, torch.Tensor]
    packed: dict[int, tuple[PackedLayout, torch.Tensor]]


def plan_experts(model: Any, sources: list[Sources], checkpoint: Checkpoint, *, unpack: bool = False) -> ExpertPlan:
    """Find the sources of every expert parameter. `unpack`: packed ones are to be plain in their rows.

    Raises InputError for one that the checkpoint does not hold.
    """
    layers = layers_of(expert_modules(model))
    parts = _parts(model, layers)
    used: list[Sources] = []
    shapes = {name: stored.shape for name, stored in checkpoint.held.items()}
    for found in sources:
        mine = [parts[name] for name in found.targets if name in parts]
        if not mine:
            continue
        used.append(found)
        for part in mine:
            if converts_alone(found):
                check_experts(found, part.shape, shapes)
            if part.sources is None:
                part.sources = found
                part.packed = None if unpack else packed_source(found, checkpoint.packed, part.shape)
    for name, part in parts.items():
        if part.sources is None:
            raise InputError(f"no tensor of {checkpoint.folder} holds {name}; the checkpoint is incomplete")
    taken = {name for found in used for name in found.all_names}
    rest = [name for name in checkpoint.held if name not in taken]
    _pack_on_meta(layers, parts)
    return ExpertPlan(model, layers, parts, used, rest)


@torch.no_grad()
def fill_experts(plan: ExpertPlan, reader: Reader, advance: Callable[[int], None]) -> Filled:
    """Read all experts into rows of the host store. `advance` is told the bytes of what is in place as it comes."""
    layouts = [layout_of(tied[0]) for tied in plan.layers]
    rows: dict[int, torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}
    for sources in plan.sources:
        parts = {name: plan.parts[name] for name in sources.targets if name in plan.parts}
        for layer in {part.layer for part in parts.values()} - set(rows):
            rows[layer] = layouts[layer].allocate(plan.layers[layer][0].num_experts)
        if all(part.sources is not sources for part in parts.values()):
            continue  # a second copy of tied experts
        pieces = {name: (_piece(layouts[part.layer], part), rows[part.layer]) for name, part in parts.items()}
        weights |= _fill(sources, parts, pieces, plan.model, reader, advance)
        reader.release()
    reader.close()
    packed = {layer: (laid, rows[layer]) for layer, laid in enumerate(layouts) if isinstance(laid, PackedLayout)}
    for part in plan.parts.values():
        view = _stand_in(part) if part.layer in packed else _piece(layouts[part.layer], part).stacked(rows[part.layer])
        weights |= dict.fromkeys(part.names, view)
    return Filled(weights, packed)


def put_experts(model: Any, plan: ExpertPlan, filled: Filled) -> None:
    """Give the model, loaded with stand-ins, its packed layers."""
    paths = {id(module): name for name, module in plan.model.named_modules()}
    for layer, (layout, rows) in filled.packed.items():
        put_tied([model.get_submodule(paths[id(module)]) for module in plan.layers[layer]], layout, rows)


def put_tied(modules: list[Any], layout: PackedLayout, rows: torch.Tensor) -> None:
    """Let the parameters of modules that share them be those in packed rows."""
    first, *others = modules
    put_packed(first, layout, rows)
    for module in others:
        for name in parameter_names(first):
            module._parameters[name] = first._parameters[name]


def _pack_on_meta(layers: list[list[Any]], parts: dict[str, Part]) -> None:
    """Let the modules of packed layers have packed parameters without memory, so that all who count count these."""
    by_place = {(part.layer, part.piece): part for part in parts.values()}
    for layer, tied in enumerate(layers):
        mine = [by_place[layer, name] for name in parameter_names(tied[0])]
        if any(part.packed for part in mine):
            layout = packed_layout([_stored_as(part) for part in mine])
            put_tied(
                tied, layout, torch.empty((tied[0].num_experts, layout.row_bytes), dtype=torch.uint8, device="meta")
            )


def _stored_as(part: Part) -> StoredAs:
    if part.packed is None:
        return StoredAs(part.piece, part.shape[1:], part.dtype)
    return part.packed.stored_as(part.piece, part.shape[1:], part.dtype)


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


def _fill(
    sources: Sources,
    parts: dict[str, Part],
    pieces: dict[str, tuple[Piece, torch.Tensor]],
    model: Any,
    reader: Reader,
    advance: Callable[[int], None],
) -> dict[str, torch.Tensor]:
    """Put what one conversion makes of experts in their places, rows with their pieces; returns what else it makes."""
    piece, rows = pieces[sources.target] if sources.target in pieces else next(iter(pieces.values()))
    packed = parts[sources.target].packed if sources.target in parts else None
    if packed is not None and isinstance(piece, PackedPiece):
        fill_packed(packed, piece, rows, reader, advance)
    elif converts_alone(sources):
        _fill_one_by_one(sources, piece.stacked(rows), model, reader, advance)
    else:
        views = {name: piece.stacked(rows) for name, (piece, rows) in pieces.items()}
        return _fill_at_once(sources, views, model, reader, advance)
    return {}


def _piece(layout: Layout, part: Part) -> Piece:
    return next(piece for piece in layout.pieces if piece.name == part.piece)


def _stand_in(part: Part) -> torch.Tensor:
    """A tensor of a parameter's shape with the memory of one number, for transformers' loading."""
    return torch.zeros((), dtype=part.dtype).expand(part.shape)


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
