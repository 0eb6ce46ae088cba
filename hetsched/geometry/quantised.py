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
    """The name of the format. Raises InputError for what none of the formats stores, with what there is instead."""
    method = str(settings.get("quant_method") or ("compressed-tensors" if "config_groups" in settings else "unknown"))
    if method not in _METHODS:
        raise InputError(f"the checkpoint is quantised by {method}, which is none of {', '.join(_METHODS)}; {ADVICE}")
    return spec_of(format_of(_METHODS[method](settings)))


def layers_left_out(settings: Settings, layers: Iterable[int]) -> list[int]:
    """Those of the layers whose experts are stored as they are, by the settings' lists of modules."""
    patterns = [str(each) for name in LEFT_OUT for each in settings.get(name) or ()]
    return [layer for layer in layers if any(_means_experts(pattern, layer) for pattern in patterns)]


def _means_experts(pattern: str, layer: int) -> bool:
    """Whether a pattern names a layer's experts, one of them, or what they are in.

    "re:" begins an expression, as in compressed-tensors; gpt-oss writes "model.layers.*.self_attn".
    """
    names = [f"model.layers.{layer}.{experts}" for experts in EXPERTS]
    if pattern.startswith("re:"):
        return any(re.match(pattern[3:], text) for name in names for text in (name, f"{name}.{MATRIX}"))
    plain = pattern.replace(".*.", f".{layer}.").removesuffix(".*")
    if "." not in plain:
        return plain == "experts"
    return any(f"{name}.".startswith(f"{plain}.") or f"{plain}.".startswith(f"{name}.") for name in names)


def _fp8(settings: Settings) -> str:
    if settings.get("weight_block_size") not in ([128, 128], (128, 128)):
        raise InputError(f"FP8 with weight_block_size {settings.get('weight_block_size')} is not served; {ADVICE}")
    return "fp8-block"


def _compressed(settings: Settings) -> str:
    groups = settings.get("config_groups") or {}
    found = [dict(group.get("weights") or {}) for group in groups.values()] if isinstance(groups, dict) else []
    weights = found[0] if found else {}
    wanted = {"num_bits": 4, "type": "int", "symmetric": True}
    seen = {key: weights.get(key) for key in wanted}
    if settings.get("format") != "pack-quantized" or seen != wanted or not weights.get("group_size"):
        said = ", ".join(f"{key} {value}" for key, value in seen.items())
        raise InputError(f"compressed-tensors as {settings.get('format')} with {said} is not served; {ADVICE}")
    return f"int4-group+group={weights['group_size']}"


def _gptq(settings: Settings) -> str:
    _require(settings, "gptq", desc_act=(False, None))
    offset = "+zero_offset=0" if settings.get("checkpoint_format") == "gptq_v2" else ""
    return f"gptq+group={settings.get('group_size', 128)}{offset}"


def _awq(settings: Settings) -> str:
    _require(settings, "awq", version=("gemm", "GEMM", None))
    return f"awq+group={settings.get('group_size', 128)}"


def _require(settings: Settings, method: str, **allowed: Sequence[Any]) -> None:
    group = settings.get("group_size", 128)
    for key, values in {"bits": (4, None), **allowed}.items():
        if settings.get(key) not in values:
            raise InputError(f"{method} with {key} {settings[key]!r:.40} is not served; {ADVICE}")
    if isinstance(group, bool) or not isinstance(group, int) or group < 1:
        raise InputError(f"{method} with group_size {group!r:.40} is not served; {ADVICE}")


ADVICE = "choose another checkpoint of the model, or say with dtype what it is to be counted as"
_METHODS: dict[str, Callable[[Settings], str]] = {
    "mxfp4": lambda _: "mxfp4",
    "fp8": _fp8,
    "compressed-tensors": _compressed,
    "gptq": _gptq,
    "awq": _awq,
}
