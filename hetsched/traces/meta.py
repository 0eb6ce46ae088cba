"""The meta object of a routing trace: what it must hold, and what is wrong with one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from ..reading import parse_json

FORMAT = "hetsched-routing-trace/1"
MAX_EXPERTS = 1 << 15  # ids are int16
MAX_TEXT = 100_000  # characters of one of the texts
_TEXTS = ("model", "licence", "source", "notes")


def read_meta(stored: npt.NDArray[Any]) -> tuple[dict[str, Any], list[str]]:
    """The stored meta and what is wrong with it as such: not a text, not JSON, not an object."""
    if stored.shape or stored.dtype.kind != "U":
        return {}, [f"meta is {stored.dtype} {stored.shape}, expected a 0-d string with JSON"]
    try:
        meta = parse_json(str(stored))
    except ValueError as error:
        return {}, [f"meta is not JSON: {error}"]
    if not isinstance(meta, dict):
        return {}, [f"meta is {meta!r:.60}, expected a JSON object"]
    return meta, []


def meta_array(meta: dict[str, Any]) -> npt.NDArray[np.str_]:
    """How a meta object is stored."""
    return np.array(json.dumps(meta, ensure_ascii=False))


def trace_meta(num_experts: int, top_k: int, num_layers: int) -> dict[str, Any]:
    """The fields that the meta object of every trace has; layers are numbered from 0 where nothing else is known."""
    return {"format": FORMAT, "num_experts": num_experts, "top_k": top_k, "layers": list(range(num_layers))}


def meta_problems(meta: dict[str, Any], num_layers: int | None, top_k: int | None) -> list[str]:
    """What the schema forbids, given the layers and choices per token of the array (None: unknown).

    `num_experts` and `format` are required; top_k, layers (a list of numbers, or how many), model, licence, source,
    notes and repeats_allowed must be right where they are given. Anything else is carried along unread.
    """
    found = []
    experts: Any = meta.get("num_experts")
    if not _is_count(experts) or experts > MAX_EXPERTS:
        found.append(f"meta.num_experts is {experts!r:.60}, expected a whole number from 1 to {MAX_EXPERTS}")
    if meta.get("format") != FORMAT:
        found.append(f"meta.format is {meta.get('format')!r:.60}, expected {FORMAT!r}")
    if "top_k" in meta and top_k is not None and not (_is_count(meta["top_k"]) and meta["top_k"] == top_k):
        found.append(f"meta.top_k is {meta['top_k']!r:.60}, but experts has {top_k} ids a row")
    if "layers" in meta and num_layers is not None:
        found += _layer_problems(meta["layers"], num_layers)
    found += [
        f"meta.{name} is {meta[name]!r:.60}, expected a text of at most {MAX_TEXT:,} characters"
        for name in _TEXTS
        if not isinstance(text := meta.get(name, ""), str) or len(text) > MAX_TEXT
    ]
    if not isinstance(meta.get("repeats_allowed", False), bool):
        found.append(f"meta.repeats_allowed is {meta['repeats_allowed']!r:.60}, expected true or false")
    return found


def _layer_problems(layers: Any, num_layers: int) -> list[str]:
    numbers = layers if isinstance(layers, list) else [layers]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        return [f"meta.layers is {layers!r:.60}, expected a list of layer numbers"]
    named = len(layers) if isinstance(layers, list) else layers
    if named != num_layers:
        return [f"meta.layers names {named} layers, but experts has {num_layers}"]
    if isinstance(layers, list) and sorted(set(layers)) != layers:
        return ["meta.layers is not ascending"]
    return []


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
