"""What becomes of a GGUF file: the model on meta, and where every parameter comes from; nothing is read yet."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType

from ..integrations.expert_modules import expert_modules
from ..integrations.load_report import LoadReport
from ..integrations.model_shape import layers_of
from ..packed import PackedLayout
from .experts import put_tied
from .gguf_config import config_of
from .gguf_experts import fill_layer, plan_layer
from .gguf_file import Gguf, GgufReader, GgufTensor
from .gguf_linears import packed_linears, read_linear
from .gguf_names import dense_sources, refuse_unused
from .gguf_numbers import DenseTensor, KeysValues, Undone, undone_for
from .gguf_theirs import TheirDense, is_theirs
from .missing import missing_weights, refuse_missing
from .model_on_meta import on_meta, resolved_dtype
from .saving import refuse_saving

HALVES = {GGMLQuantizationType.BF16: torch.bfloat16, GGMLQuantizationType.F16: torch.float16}


class GgufPlan:
    """Where a model's parameters come from.

    `dtype`: of the arithmetic and the dense weights; None: what the file's numbers are in, bfloat16 where they are
    packed, which is what such models were published in. `unpack`: the experts, too, into that.

    Raises InputError, before anything is allocated, for a file that is damaged, incomplete, or of a model that
    transformers computes otherwise.
    """

    def __init__(self, path: Path, dtype: str | torch.dtype | None = None, *, unpack: bool = False) -> None:
        self.gguf = Gguf(path)
        config = config_of(self.gguf)
        self.twin = on_meta(config, resolved_dtype(dtype, config, _stored(self.gguf)))
        layers = layers_of(expert_modules(self.twin))
        paths: dict[Any, str] = {module: name for name, module in self.twin.named_modules()}
        self.layers = [plan_layer(tied, paths, self.gguf, unpack) for tied in layers]
        experts = {name for layer in self.layers for names in layer.names.values() for name in names}
        self._undone: Undone
        if is_theirs(self.gguf.architecture):
            theirs = TheirDense(self.gguf, self.twin, experts)
            self._dense, self._undone = theirs.sources, theirs.undone
            refuse_missing(path, missing_weights(self.twin, {*self._dense, *experts}))
        else:
            self._dense = dense_sources(self.twin, self.gguf, experts)
            self._undone = undone_for(self.gguf.architecture, config)
        taken = [tensor.name for layer in self.layers for each in layer.sources.values() for tensor in each]
        refuse_unused(self.gguf, [*(name for names in self._dense.values() for name in names), *taken])
        self._linears = {} if unpack else packed_linears(self.twin, self.gguf, self._dense)
        self._held: dict[str, torch.nn.Parameter] = {}

    @property
    def expert_bytes(self) -> int:
        """Bytes that the experts' rows will take."""
        return sum(layer.num_bytes for layer in self.layers)

    @property
    def rest_bytes(self) -> int:
        """Bytes of the dense weights as they will lie."""
        held = self.twin.state_dict()
        plain = sum(int(held[name].nbytes) for name in self._dense if name not in self._linears)
        return plain + sum(tensor.num_bytes for tensor, _ in self._linears.values())

    def report(self) -> LoadReport:
        """What loading comes to."""
        kept, unpacked = [], list[GgufTensor]()
        for layer in self.layers:
            if isinstance(layer.layout, PackedLayout):
                kept += [matrix.format.name for matrix in layer.layout.matrices]
            unpacked += layer.unpacked
        bytes_by_kind: dict[str, int] = {}
        for tensor in unpacked:
            bytes_by_kind[tensor.kind.name] = bytes_by_kind.get(tensor.kind.name, 0) + tensor.num_bytes
        return LoadReport(
            self.expert_bytes,
            self.rest_bytes,
            sum(len(layer.sources) for layer in self.layers),
            0,
            len(self.gguf.files),
            formats=tuple(dict.fromkeys(kept)),
            unpacked=bytes_by_kind,
            unpacked_bytes=sum(prod(tensor.shape) for tensor in unpacked) * self.twin.dtype.itemsize,
        )

    def read(self, reader: GgufReader, advance: Callable[[int], None]) -> tuple[dict[str, Any], list[torch.Tensor]]:
        """Weights by name for transformers to take, and the rows of the experts by layer, which are filled.

        Dense weights are read when they are looked at. Packed parameters have stand-ins without memory; see put().
        """
        held = self.twin.state_dict()
        weights: dict[str, Any] = {
            name: self._dense_tensor(stored, held[name], reader) for name, stored in self._dense.items()
        }
        for name, (tensor, format_) in self._linears.items():
            self._held[name] = read_linear(tensor, format_, self.twin.dtype, reader)
            weights[name] = torch.zeros((), dtype=self.twin.dtype).expand(held[name].shape)
        filled = []
        for layer in self.layers:
            filled.append(fill_layer(layer, reader, advance))
            packed = isinstance(layer.layout, PackedLayout)
            stacked = {} if packed else layer.layout.stacked(filled[-1])
            for piece in layer.layout.pieces:
                shape = (layer.module.num_experts, *piece.shape)
                value = torch.zeros((), dtype=piece.dtype).expand(shape) if packed else stacked[piece.name]
                weights |= dict.fromkeys(layer.names[piece.name], value)
        return weights, filled

    def _dense_tensor(self, names: tuple[str, ...], held: torch.Tensor, reader: GgufReader) -> DenseTensor | KeysValues:
        dtype, undone, stored = self.twin.dtype, self._undone, [self.gguf.tensors[name] for name in names]
        if len(stored) == 1:
            return DenseTensor(stored[0], held.shape, dtype, reader, undone)
        keys, values = (DenseTensor(each, each.shape, dtype, reader, undone) for each in stored)
        return KeysValues(keys, values, held.shape)

    def put(self, model: Any, filled: list[torch.Tensor]) -> None:
        """Let a model made of those weights have its packed parameters."""
        for name, parameter in self._held.items():
            model.get_submodule(name.rpartition(".")[0])._parameters["weight"] = parameter
        for layer, rows in zip(self.layers, filled, strict=True):
            if isinstance(layer.layout, PackedLayout):
                paths = [name.rpartition(".")[0] for name in next(iter(layer.names.values()))]
                put_tied([model.get_submodule(path) for path in paths], layer.layout, rows)
        if self._held or any(isinstance(layer.layout, PackedLayout) for layer in self.layers):
            refuse_saving(model)


def _stored(gguf: Gguf) -> torch.dtype:
    """What a file's numbers are in."""
    kinds = {tensor.kind for tensor in gguf.tensors.values()}
    if kinds - set(HALVES) - {GGMLQuantizationType.F32}:
        return torch.bfloat16
    return next((dtype for kind, dtype in HALVES.items() if kind in kinds), torch.float32)
