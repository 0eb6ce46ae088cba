"""The shape of a model as its expert modules really are: layers, ties, counts and bytes, from tensors.

Shapes: L layers, E experts, H hidden, F ffn.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any, NamedTuple

from ..errors import InputError
from ..geometry import MoEGeometry, from_config
from ..memory.context import ContextShape, context_shape
from ..packed import PackedLayout, layout_of, parameter_names
from .cpu_lane import dtype_name
from .expert_modules import is_expert_module


def layers_of(modules: list[Any]) -> list[list[Any]]:
    """Modules by layer, in order of definition. Modules that share all their expert parameters are one layer."""
    layers: dict[Any, list[Any]] = {}
    for module in modules:
        layers.setdefault(_identity(module), []).append(module)
    return list(layers.values())


def stored_bytes(modules: list[Any]) -> int:
    """Bytes of these modules' experts, each in a row of its own size."""
    return sum(layout_of(module).row_bytes * module.num_experts for module in modules)


def geometry_of(modules: list[Any], config: Any) -> MoEGeometry:
    """The model's geometry: one module a layer, with widths, counts and bytes as the tensors have them.

    The widths and bytes are those of the largest expert, since all slots are of one size.
    """
    largest = max(modules, key=lambda module: layout_of(module).row_bytes)
    layout = layout_of(largest)
    bytes_L = tuple(layout_of(module).row_bytes for module in modules)
    experts = [int(module.num_experts) for module in modules]
    dtypes = {name: getattr(module, name).dtype for module in modules for name in parameter_names(module)}
    for dtype in dtypes.values():
        dtype_name(dtype)
    ffn, hidden = largest.down_proj.shape[1:] if largest.is_transposed else largest.down_proj.shape[:0:-1]
    shape = _announced(config, largest, max(experts), int(hidden), int(ffn))
    return replace(
        shape,
        num_layers=len(modules),
        num_experts=max(experts),
        top_k=min(shape.top_k, *experts),
        hidden=int(hidden),
        ffn=int(ffn),
        dtype=layout.format_name if isinstance(layout, PackedLayout) else dtype_name(largest.down_proj.dtype),
        matrices=3 if largest.has_gate else 2,
        bias=bool(largest.has_bias),
        expert_bytes_override=layout.row_bytes if min(bytes_L) == max(bytes_L) else None,
        expert_bytes_L=bytes_L if min(bytes_L) < max(bytes_L) else (),
        experts_L=tuple(experts) if min(experts) < max(experts) else (),
    )


class RestOfModel(NamedTuple):
    """What a memory plan knows of a model besides its geometry; bytes None: not counted.

    `expert_bytes`: experts as the host stores them. `dense_bytes`: all weights and buffers but theirs.
    """

    shape: ContextShape = ContextShape()
    dense_bytes: int | None = None
    expert_bytes: int | None = None

    def with_copies(self, copies: MoEGeometry) -> RestOfModel:
        """With a copy of every expert beside it on the host."""
        return self._replace(expert_bytes=(self.expert_bytes or 0) + copies.total_expert_bytes)


def rest_of(model: Any, modules: list[Any]) -> RestOfModel:
    """The rest of a model that is loaded, or on meta. `modules`: one expert module a layer."""
    shape = ContextShape()
    for source in (getattr(model, "config", None), modules[0].config):
        if source is not None and not shape.layers:
            with contextlib.suppress(InputError):
                shape = context_shape(source)
    experts = {id(part) for module in model.modules() if is_expert_module(module) for part in module.modules()}
    tensors = {
        id(tensor): tensor.numel() * tensor.element_size()
        for module in model.modules()
        if id(module) not in experts
        for held in (module._parameters, module._buffers)
        for tensor in held.values()
        if tensor is not None
    }
    return RestOfModel(shape, sum(tensors.values()), stored_bytes(modules))


def _announced(config: Any, module: Any, experts: int, hidden: int, ffn: int) -> MoEGeometry:
    """What the config says of everything but the experts; where it says nothing, the experts alone."""
    for source in (config, module.config):
        with contextlib.suppress(InputError):
            return from_config(source)
    return MoEGeometry(str(getattr(config, "model_type", "this model")), 1, experts, 1, hidden, ffn)


def _identity(module: Any) -> tuple[Any, ...]:
    """Equal for two modules whose expert parameters are the same memory."""
    parameters = [getattr(module, name) for name in parameter_names(module)]
    return tuple((id(p) if p.is_meta else p.data_ptr(), tuple(p.shape), p.stride(), p.dtype) for p in parameters)
