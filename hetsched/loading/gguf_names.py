"""Which tensors of a GGUF file make up each parameter of transformers' model, by gguf-py's table of names.

Shapes: E experts, F ffn, H hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import gguf as gguf_py

from ..errors import InputError
from ..packed import parameter_names
from .gguf_file import Gguf, GgufTensor

TENSOR = gguf_py.MODEL_TENSOR
GATE, UP, DOWN = (gguf_py.TENSOR_NAMES[name] for name in (TENSOR.FFN_GATE_EXP, TENSOR.FFN_UP_EXP, TENSOR.FFN_DOWN_EXP))
GATE_UP = gguf_py.TENSOR_NAMES[TENSOR.FFN_GATE_UP_EXP]
LAYER = re.compile(r"\blayers\.(\d+)\.")
KV_B = ".kv_b_proj."  # of latent attention, which llama.cpp splits
KEYS_VALUES = ("blk.{bid}.attn_k_b.weight", "blk.{bid}.attn_v_b.weight")
SHOWN = 3  # names in a message


class ExpertSources(NamedTuple):
    """Names of the tensors [E, R, C] that make up a parameter of one layer's experts, in the order of their rows."""

    parameter: str
    tensors: tuple[str, ...]


def dense_sources(model: Any, gguf: Gguf, experts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The file's tensor of each parameter and buffer of `model`, on meta, but for `experts`.

    One of latent attention may be in two, keys and values. Tied parameters are named once. Raises InputError for what
    the file lacks.
    """
    names = gguf_py.get_tensor_name_map(_number_of(gguf.architecture), int(gguf.value("block_count")))
    apart, tied = set(experts), set(model.all_tied_weights_keys)
    found: dict[str, tuple[str, ...]] = {}
    missing = []
    for name, value in model.state_dict().items():
        if name in apart or name in tied:
            continue
        stored = next((each for each in _candidates(names, name) if each in gguf.tensors), None)
        halves = tuple(half.format(bid=name.split(".")[2]) for half in KEYS_VALUES) if KV_B in name else ()
        if stored is not None:
            _refuse_other_shape(name, tuple(value.shape), gguf.tensors[stored])
            found[name] = (stored,)
        elif halves and all(half in gguf.tensors for half in halves):
            found[name] = halves
        else:
            missing.append(name)
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise InputError(
            f"{gguf.files[0]} lacks {len(missing)} of the model's weights: {', '.join(missing[:SHOWN])}{more}; it is "
            "incomplete, or of a kind that llama.cpp alone reads"
        )
    return found


def expert_sources(path: str, module: Any, gguf: Gguf) -> list[ExpertSources]:
    """The tensors of one module's expert parameters. `path`: its name in the model. Raises InputError for none."""
    layer = LAYER.search(path)
    if layer is None:
        raise InputError(f"{path} has no number, and a GGUF file numbers its layers")
    found = []
    for parameter in parameter_names(module):
        kind = "bias" if parameter.endswith("_bias") else "weight"
        stems = [DOWN] if parameter.startswith("down") else [GATE, UP] if module.has_gate else [UP]
        tensors = tuple(f"{stem.format(bid=layer[1])}.{kind}" for stem in stems)
        joined = f"{GATE_UP.format(bid=layer[1])}.{kind}"
        if parameter.startswith("gate_up") and joined in gguf.tensors:
            tensors = (joined,)
        absent = next((name for name in tensors if name not in gguf.tensors), None)
        if absent is not None:
            raise InputError(f"{gguf.files[0]} lacks {absent}; it is incomplete, or older than stacked experts are")
        found.append(ExpertSources(parameter, tensors))
    return found


def refuse_unused(gguf: Gguf, used: Iterable[str]) -> None:
    """Raise InputError for a tensor that the model has no place for: its numbers would be other than llama.cpp's.

    Blocks behind the last layer, which predict further tokens, are left out.
    """
    layers = int(gguf.value("block_count")) - int(gguf.value("nextn_predict_layers", 0))
    left = sorted(set(gguf.tensors) - set(used))
    left = [name for name in left if not any(name.startswith(f"blk.{n}.") for n in _behind(gguf, layers))]
    if left:
        raise InputError(
            f"{gguf.files[0]} holds {left[0]}{f' and {len(left) - 1} more' if len(left) > 1 else ''}, for which "
            f"transformers' model has no place; load the model as safetensors"
        )


def _refuse_other_shape(name: str, shape: tuple[int, ...], tensor: GgufTensor) -> None:
    """Dimensions of length 1 are of no account: llama.cpp drops some."""
    if [size for size in shape if size > 1] != [size for size in tensor.shape if size > 1]:
        raise InputError(
            f"{tensor.name} is {list(tensor.shape)} in {tensor.file} where the model's {name} is {list(shape)}; its "
            "metadata belong to another model"
        )


def _behind(gguf: Gguf, layers: int) -> Iterator[int]:
    yield from range(layers, int(gguf.value("block_count")))


def _number_of(architecture: str) -> Any:
    """gguf-py's number of an architecture."""
    return next(number for number, name in gguf_py.MODEL_ARCH_NAMES.items() if name == architecture)


def _candidates(names: Any, name: str) -> Iterator[str]:
    """What a parameter may be called in the file, likeliest first."""
    stem, _, kind = name.rpartition(".")
    if kind in ("weight", "bias"):
        if mapped := names.get_name(stem):
            yield f"{mapped}.{kind}"
            yield mapped
        return
    name = name.replace(".gate.moe_statics.", ".moe_statics.")  # transformers has it one level deeper than published
    for stem, kinds in ((name, ("weight", "")), (name.removesuffix("_bias"), ("bias", ""))):
        if mapped := names.get_name(stem):
            yield from (f"{mapped}.{kind}".rstrip(".") for kind in kinds)
