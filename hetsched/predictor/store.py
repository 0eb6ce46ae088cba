"""Predictor files: safetensors with one JSON text, `hetsched`, as metadata. Read with NumPy alone; never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..files import replacing
from ..reading import parse_json, read_bytes
from .compact import Compact, shapes

SCHEMA = "hetsched-predictor/1"
KEY = "hetsched"
ARCHITECTURES = ("compact", "published")
LIMIT_BYTES = 4 << 30
_WHAT = "a predictor of 'hetsched predictor train'"
_COUNTS = ("layers", "num_experts", "top_k", "width")
_TOLD = {  # what a predictor says of its making, by section: "" is in all of them, others where the section is
    "": {"protocol": "text", "trace": "text", "seed": "whole", "fit_sequences": "number"},
    "training": {"best_score": "number", "best_epoch": "whole", "epochs": "number", "steps": "whole"},
    "held_out": {"recall": "number", "tokens": "whole"},
}
_KINDS: dict[str, Any] = {"text": str, "whole": int, "number": (int, float)}


class Stored(NamedTuple):
    """A file: its metadata and its arrays by name."""

    meta: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]


def save(path: str | Path, meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write atomically; the same bytes for the same contents. Raises InputError where no file can be written."""
    from safetensors.numpy import save as packed

    text = json.dumps({"schema": SCHEMA, **meta}, sort_keys=True)
    data = packed({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {KEY: text})
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def load(path: str | Path) -> Stored:
    """Read and check a predictor. Raises InputError, in one line, for anything else."""
    data = read_bytes(path, _WHAT, LIMIT_BYTES)
    try:
        meta = _meta_of(data)
        from safetensors.numpy import load as unpacked

        arrays = unpacked(data)
    except Exception as error:  # its own errors have no common class
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is no predictor: {reason:.200}; make one with 'hetsched predictor train'") from error
    if reason := _problem(meta):
        raise InputError(f"{path}: {reason}; train it anew")
    if bad := [name for name, a in arrays.items() if a.dtype == np.float32 and not np.isfinite(a).all()]:
        raise InputError(f"{path}: {bad[0]} has numbers that are not finite; train it anew")
    return Stored(meta, arrays)


def load_compact(path: str | Path) -> Compact:
    """The numbers of a compact predictor. Raises InputError as load(), for another architecture, for wrong shapes."""
    stored = load(path)
    if stored.meta["architecture"] != "compact":
        raise InputError(
            f"{path} is of the architecture {stored.meta['architecture']!r}, which is scored by 'hetsched predictor "
            "eval' and too slow to decide by; train one with --architecture compact"
        )
    return compact_of(path, stored)


def compact_of(path: str | Path, stored: Stored) -> Compact:
    """A stored compact network, its shapes checked. Raises InputError for one that does not hang together."""
    meta = stored.meta
    wanted = shapes(meta["layers"], meta["num_experts"], meta["width"], meta["hidden"])
    for name, shape in wanted.items():
        found = stored.arrays.get(name)
        if found is None or found.shape != shape or found.dtype != np.float32:
            told = "absent" if found is None else f"{found.dtype} {found.shape}"
            raise InputError(f"{path}: the array {name!r} is {told}, expected float32 {shape}; train it anew")
    return Compact(**{name: stored.arrays[name] for name in wanted})


def _meta_of(data: bytes) -> dict[str, Any]:
    """The JSON text of a safetensors file's header. Raises ValueError for what is none."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, 100 << 20):
        raise ValueError("it is no safetensors file")
    header = parse_json(data[8 : 8 + length].decode("utf-8"))
    text = header.get("__metadata__", {}).get(KEY) if isinstance(header, dict) else None
    meta = parse_json(text) if isinstance(text, str) else None
    if not isinstance(meta, dict) or meta.get("schema") != SCHEMA:
        raise ValueError(f"its metadata has no text {KEY!r} with the schema {SCHEMA!r}")
    return meta


def _problem(meta: Mapping[str, Any]) -> str:
    """What is wrong with the metadata, "" for nothing."""
    if meta.get("architecture") not in ARCHITECTURES:
        return f"its architecture is {meta.get('architecture')!r:.60}, not one of {', '.join(ARCHITECTURES)}"
    for name in (*_COUNTS, "hidden"):
        value, least = meta.get(name), 0 if name == "hidden" else 1
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= 1 << 20:
            return f"its {name} is {value!r:.60}, not a whole number from {least}"
    sections = {section: meta.get(section) if section else meta for section in _TOLD}
    for section, values in sections.items():
        if values is None:
            continue
        if not isinstance(values, dict):
            return f"its {section} is {values!r:.60}, not an object"
        for name, kind in _TOLD[section].items():
            value = values.get(name)
            if not _is_kind(value, kind):
                return f"its {section and section + '.'}{name} is {value!r:.60}, not a {kind}"
    return ""


def _is_kind(value: Any, kind: str) -> bool:
    is_right = isinstance(value, _KINDS[kind]) and not isinstance(value, bool)
    return is_right and (kind == "text" or bool(abs(value) <= 1e300))  # which is true of no NaN
