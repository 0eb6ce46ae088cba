"""The geometry of the model in a GGUF file, from its header alone: for verbs that load no weights."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..formats import format_of
from ..geometry import MoEGeometry, from_config
from ..packed import ALIGN
from .gguf_config import config_of
from .gguf_experts import FORMATS, PLAIN_KINDS
from .gguf_file import Gguf, GgufTensor

EXPERTS = re.compile(r"blk\.(\d+)\.ffn_(gate_up|gate|up|down)_exps\.(weight|bias)")

NOT_DENSE = ("token_embd.weight", "output.weight")

Layer = dict[tuple[str, str], list[GgufTensor]]  # tensors of (up or down, weight or bias)


def geometry_of_gguf(path: Path | str) -> tuple[MoEGeometry, dict[str, Any]]:
    """Geometry as the loaded model would have it, and its config.

    What is in no format of this project is counted in 16 bits, as it is loaded. Raises InputError for a file that is no
    GGUF, or of an architecture that is not loaded.
    """
    return _geometry(Gguf(Path(path)), path)


def model_of_gguf(path: Path | str) -> tuple[MoEGeometry, dict[str, Any], dict[str, int]]:
    """The same with the file's own bytes of all but experts, by the names of an estimate's subject.

    A head that is the input embedding too is counted as the head.
    """
    gguf = Gguf(Path(path))
    sizes = {name: tensor.num_bytes for name, tensor in gguf.tensors.items()}
    embedding, head = sizes.get("token_embd.weight", 0), sizes.get("output.weight")
    dense = sum(size for name, size in sizes.items() if not EXPERTS.fullmatch(name) and name not in NOT_DENSE)
    rest = {"dense_bytes": dense, "head_bytes": embedding if head is None else head}
    return *_geometry(gguf, path), {**rest, "embedding_bytes": 0 if head is None else embedding}


def _geometry(gguf: Gguf, path: Path | str) -> tuple[MoEGeometry, dict[str, Any]]:
    config: dict[str, Any] = config_of(gguf).to_dict()
    layers = _layers(gguf, int(config["num_hidden_layers"]))
    plain = _plain(layers)
    rows_L = [_bytes_by(layer, plain) for layer in layers]
    bytes_L = tuple(sum(each.values()) for each in rows_L)
    largest = rows_L[bytes_L.index(max(bytes_L))]
    differ = min(bytes_L) < max(bytes_L)
    geometry = replace(
        from_config(config, str(gguf.metadata.get("general.name") or Path(path).stem), "bf16"),
        num_layers=len(layers),
        dtype=max((name for name in largest if name), key=lambda name: largest[name], default=plain),
        expert_bytes_override=None if differ else bytes_L[0],
        expert_bytes_L=bytes_L if differ else (),
    )
    return geometry, config


def _layers(gguf: Gguf, count: int) -> list[Layer]:
    """Tensors of each layer with experts; blocks behind the model's last layer are left out."""
    found: dict[int, Layer] = {}
    for name, tensor in sorted(gguf.tensors.items()):
        part = EXPERTS.fullmatch(name)
        if part and int(part[1]) < count:
            key = "down" if part[2] == "down" else "up", part[3]
            found.setdefault(int(part[1]), {}).setdefault(key, []).append(tensor)
    if not found or any(len(layer.get(key, ())) == 0 for layer in found.values() for key in WEIGHTS):
        raise InputError(f"{gguf.files[0]} lacks stacked experts (blk.N.ffn_down_exps.weight and others)")
    return [found[number] for number in sorted(found)]


WEIGHTS = (("up", "weight"), ("down", "weight"))


def _plain(layers: list[Layer]) -> str:
    """What unpacked weights come in: the file's own numbers where all are alike and plain, else bf16."""
    kinds = {tensor.kind for layer in layers for key in WEIGHTS for tensor in layer[key]}
    return FORMATS[kinds.pop()] if len(kinds) == 1 and kinds <= set(PLAIN_KINDS) else "bf16"


def _bytes_by(layer: Layer, plain: str) -> dict[str, int]:
    """Bytes of one expert's row by format, each piece of it from a cache line on; under no name what is plain."""
    found: dict[str, int] = {}
    for (_, kind), tensors in sorted(layer.items(), reverse=True):  # up before down
        names = [FORMATS.get(tensor.kind, plain) for tensor in tensors]
        if kind == "bias" or all(name == plain for name in names):
            pieces = [("", _plain_bytes(tensors, plain))]
        else:
            shapes = [(tensor.shape[1], tensor.shape[2]) for tensor in tensors]
            pieces = [(name, format_of(name).num_bytes(shape)) for name, shape in zip(names, shapes, strict=True)]
        for name, size in pieces:
            found[name] = found.get(name, 0) + -(-size // ALIGN) * ALIGN
    return found


def _plain_bytes(tensors: list[GgufTensor], plain: str) -> int:
    return sum(prod(tensor.shape[1:]) for tensor in tensors) * (4 if plain == "fp32" else 2)
