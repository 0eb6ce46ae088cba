"""JSON documents on standard output: one a run, and never NaN or Infinity, which no JSON has."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def print_document(document: Mapping[str, Any], indent: int | None = None) -> None:
    """Print a document; a number that is none, or has no end, is null. Texts keep their letters' escapes."""
    print(json.dumps(finite(document), indent=indent, allow_nan=False))


def finite(value: Any) -> Any:
    """The same value with None for each float in it that JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value
