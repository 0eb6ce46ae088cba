"""What a checkpoint's `quantization_config` says its experts are stored as: a format's name, and the layers left out.

The methods' own documents: gpt-oss (mxfp4), DeepSeek-V3's README_WEIGHTS (fp8 by blocks), compressed-tensors
(pack-quantized), GPTQ and AutoAWQ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ..errors import InputError
from ..formats import format_of, spec_of

Settings: TypeAlias = "Mapping[str, Any]"

LEFT_OUT = ("modules_to_not_convert", "ignore", "ignored_layers")  # by method: names, prefixes, or "re:" expressions
EXPERTS = ("mlp.experts", "block_sparse_moe.experts", "feed_forward.experts", "experts")  # of a layer, as models say
MATRIX = "0.gate_proj"  # one of an expert, for expressions that mean whole names


def format_in(settings: Settings) -> str:
    """The name of the format. Raises InputError for what none of the formats stores, as the loader does."""
    given = settings.get("quant_method") or ("compressed-tensors" if "config_groups" in settings else "unknown")
    method = str(getattr(given, "value", given))
    if method not in _METHODS:
        raise InputError(f"the checkpoint is quantised by {method}, which is none of {', '.join(_METHODS)}; {ADVICE}")
    return spec_of(format_of(_METHODS[method](settings)))


def layers_left_out(settings: Settings, layers: Iterable[int]) -> list[int]:
    """Those of the layers whose experts are stored as they are, by the settings' lists of modules."""
    lists = [listed for name in LEFT_OUT if isinstance(listed := settings.get(name), list | tuple)]
    patterns = [str(each) for listed in lists for each in listed]
    return [layer for layer in layers if any(_means_experts(pattern, layer) for pattern in patterns)]


def _means_experts(pattern: str, layer: int) -> bool:
    """Whether a pattern names a layer's experts, one of them, or what they are in.

    "re:" begins an expression, as in compressed-tensors; gpt-oss writes "model.layers.*.self_attn".
    """
    names = [f"model.layers.{layer}.{experts}" for experts in EXPERTS]
    if pattern.startswith("re:"):
        try:
            return any(re.match(pattern[3:], text) for name in names for text in (name, f"{name}.{MATRIX}"))
        except re.error as error:
            raise InputError(f"the config leaves out modules by {pattern!r:.60}, no expression: {error}") from None
    plain = pattern.replace(".*.", f".{layer}.").removesuffix(".*")
    if "." not in plain:
        return plain == "experts"
    return any(f"{name}.".startswith(f"{plain}.") or f"{plain}.".startswith(f"{name}.") for name in names)


def _fp8(settings: Settings) -> str:
    block = settings.get("weight_block_size", (128, 128))
    _require("fp8", weight_block_size=(block, ([128, 128], (128, 128))))
    _require("fp8", expert_dtype=(settings.get("expert_dtype", "fp8"), ["fp8"]))
    return "fp8-block"


def _compressed(settings: Settings) -> str:
    """Of all groups of modules alike, which may be named apart."""
    groups, sizes = _section(settings, "config_groups"), set()
    for name in groups:
        group = _section(groups, name)
        weights = _section(group, "weights")
        _require("compressed-tensors", format=(group.get("format") or settings.get("format"), ["pack-quantized"]))
        for key, value in {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}.items():
            _require("compressed-tensors", **{key: (weights.get(key), [value])})
        _require("compressed-tensors", actorder=(weights.get("actorder"), [None, False, "static", "weight"]))
        sizes.add(_group("compressed-tensors", weights.get("group_size")))
    _require("compressed-tensors", config_groups=(len(sizes), [1]))
    return f"int4-group+group={sizes.pop()}"


def _gptq(settings: Settings) -> str:
    stored = settings.get("checkpoint_format") or "gptq"
    _require("gptq", bits=(settings.get("bits"), [4]))
    _require("gptq", checkpoint_format=(stored, ["gptq", "gptq_v2"]))
    _require("gptq", desc_act=(bool(settings.get("desc_act")), [False]))
    return f"gptq+group={_group('gptq', settings.get('group_size', 128))}"


def _awq(settings: Settings) -> str:
    _require("awq", bits=(settings.get("bits", settings.get("w_bit")), [4]))
    _require("awq", version=(str(settings.get("version", "gemm")).lower(), ["gemm"]))
    return f"awq+group={_group('awq', settings.get('group_size', settings.get('q_group_size', 128)))}"


def _section(settings: Settings, name: str) -> Settings:
    found = settings.get(name)
    return found if isinstance(found, dict) else {}


def _require(method: str, **given: tuple[Any, Sequence[Any]]) -> None:
    """Raise InputError where a setting is none of those served."""
    for key, (value, served) in given.items():
        if value not in served:
            raise InputError(f"{method} with {key} {value!r:.40} is not served; {ADVICE}")


def _group(method: str, size: Any) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"{method} with group_size {size!r:.40} is not served; {ADVICE}")
    return size


ADVICE = "choose another checkpoint of the model, or say with dtype what it is to be counted as"
_METHODS: dict[str, Callable[[Settings], str]] = {
    "mxfp4": lambda _: "mxfp4",
    "fp8": _fp8,
    "compressed-tensors": _compressed,
    "gptq": _gptq,
    "awq": _awq,
}
