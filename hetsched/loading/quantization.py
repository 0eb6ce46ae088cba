"""What a config says of packed weights: the method, and how the tensors of one matrix are named.

Sizes of groups and dtypes of scales are read from the tensors' headers, which know them of every matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn, TypeAlias

from ..errors import InputError
from ..formats import Format, Shape
from ..formats.awq import Awq
from ..formats.fp8_block import SIDE, Fp8Block
from ..formats.gptq import PER_WORD, Gptq
from ..formats.int4_group import Int4Group
from ..formats.mxfp4 import GROUP, Mxfp4

SERVED = "mxfp4, fp8 in blocks of 128 x 128, int4 groups of compressed-tensors (pack-quantized), gptq and awq of 4 bits"
Header: TypeAlias = tuple[tuple[int, ...], str]  # shape, dtype by torch's name


@dataclass(frozen=True)
class Packing:
    """How one method stores matrices.

    `ends`: of tensors' names, by part of the format. `matrix`: format and shape [R, C] from the headers by part, the
    last dimensions of which are the matrix's. `transposed`: the model's parameter is [C, R] where matrices are stacked.
    """

    method: str
    ends: Mapping[str, str]
    matrix: Callable[[Mapping[str, Header]], tuple[Format, Shape]]
    transposed: bool = False


def packing_of(config: Any) -> Packing | None:
    """How a checkpoint with this config, transformers' or a dictionary, is packed; None: it is not.

    Raises InputError, with what is served, for any other method, and for settings of one that are not served.
    """
    found = (
        config.get("quantization_config") if isinstance(config, dict) else getattr(config, "quantization_config", None)
    )
    if found is None:
        return None
    settings = found if isinstance(found, dict) else found.to_dict()
    method = str(getattr(settings.get("quant_method"), "value", settings.get("quant_method")))
    if method not in _METHODS:
        _refuse(method)
    return _METHODS[method](settings)


def _mxfp4(settings: dict[str, Any]) -> Packing:
    """gpt-oss: all experts of a layer stacked, `..._blocks` and `..._scales`."""

    def matrix(parts: Mapping[str, Header]) -> tuple[Format, Shape]:
        *_, rows, groups, _ = parts["blocks"][0]
        return _mxfp4_format(), (rows, groups * GROUP)

    return Packing("mxfp4", Mxfp4.stored_as, matrix, transposed=True)


def _fp8(settings: dict[str, Any]) -> Packing:
    """DeepSeek-V3, Qwen3-FP8: `weight` and `weight_scale_inv`. Scales of activations belong to other kernels."""
    block = settings.get("weight_block_size", (SIDE, SIDE))
    if block is None or list(block) != [SIDE, SIDE]:
        _refuse(f"fp8, weight_block_size {block}")
    if settings.get("expert_dtype", "fp8") != "fp8":
        _refuse(f"fp8, expert_dtype {settings['expert_dtype']}")

    def matrix(parts: Mapping[str, Header]) -> tuple[Format, Shape]:
        *_, rows, columns = parts["weights"][0]
        return _fp8_format(parts["scales"][1]), (rows, columns)

    return Packing("fp8", Fp8Block.stored_as, matrix)


def _compressed_tensors(settings: dict[str, Any]) -> Packing:
    """Kimi-K2 and others: `weight_packed` and `weight_scale`."""
    groups = settings.get("config_groups") or {}
    for group in groups.values():
        weights, stored = group.get("weights") or {}, group.get("format") or settings.get("format")
        wanted = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}
        if stored != "pack-quantized" or {name: weights.get(name) for name in wanted} != wanted:
            said = ", ".join(f"{name} {weights.get(name)}" for name in wanted)
            _refuse(f"compressed-tensors, {stored}, {said}")
        if weights.get("actorder") in (True, "group"):
            _refuse("compressed-tensors, columns reordered by actorder")
    if not groups:
        _refuse("compressed-tensors without config_groups")

    def matrix(parts: Mapping[str, Header]) -> tuple[Format, Shape]:
        *_, rows, words = parts["packed"][0]
        scales, dtype = parts["scales"]
        return _int4_format(words * PER_WORD // scales[-1], dtype), (rows, words * PER_WORD)

    return Packing("compressed-tensors", Int4Group.stored_as, matrix)


def _gptq(settings: dict[str, Any]) -> Packing:
    """`qweight`, `qzeros`, `scales`, and `g_idx`, which must say nothing new."""
    stored = str(settings.get("checkpoint_format") or "gptq")
    if settings.get("bits") != 4 or stored not in ("gptq", "gptq_v2"):
        _refuse(f"gptq, {settings.get('bits')} bits, checkpoint_format {stored}")
    if settings.get("desc_act"):
        _refuse("gptq, columns reordered by desc_act")
    offset = 1 if stored == "gptq" else 0

    def matrix(parts: Mapping[str, Header]) -> tuple[Format, Shape]:
        *_, words, rows = parts["qweight"][0]
        scales, dtype = parts["scales"]
        return _gptq_format(words * PER_WORD // scales[-2], dtype, offset), (rows, words * PER_WORD)

    return Packing("gptq", Gptq.stored_as, matrix)


def _awq(settings: dict[str, Any]) -> Packing:
    """`qweight`, `qzeros`, `scales`."""
    bits, version = settings.get("bits", settings.get("w_bit")), str(settings.get("version", "gemm")).lower()
    if bits != 4 or version != "gemm":
        _refuse(f"awq, {bits} bits, version {version}")

    def matrix(parts: Mapping[str, Header]) -> tuple[Format, Shape]:
        *_, columns, words = parts["qweight"][0]
        scales, dtype = parts["scales"]
        return _awq_format(columns // scales[-2], dtype), (words * PER_WORD, columns)

    return Packing("awq", Awq.stored_as, matrix)


_METHODS: dict[str, Callable[[dict[str, Any]], Packing]] = {
    "mxfp4": _mxfp4,
    "fp8": _fp8,
    "compressed-tensors": _compressed_tensors,
    "gptq": _gptq,
    "awq": _awq,
}
# One object for all matrices that are stored alike.
_mxfp4_format, _fp8_format, _int4_format = cache(Mxfp4), cache(Fp8Block), cache(Int4Group)
_gptq_format, _awq_format = cache(Gptq), cache(Awq)


def _refuse(said: str) -> NoReturn:
    raise InputError(f"the checkpoint is quantised ({said}), which is not served; plain weights are, and {SERVED}")
