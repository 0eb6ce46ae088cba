"""What differs between two profiles, figure by figure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .profile import HardwareProfile
from .profile_yaml import profile_document
from .units import human

_SAID_ELSEWHERE = {"schema", "datasheet", "notes", "tool"}


class Difference(NamedTuple):
    """One dotted key with the two values as people read them; `ratio` is second / first for figures, else None."""

    key: str
    first: str
    second: str
    ratio: float | None


def differences(first: HardwareProfile, second: HardwareProfile) -> list[Difference]:
    """Every key in which the profiles differ, in order of the file."""
    left, right = dict(_leaves(profile_document(first), "")), dict(_leaves(profile_document(second), ""))
    keys = [*left, *(key for key in right if key not in left)]
    return [_difference(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def _difference(key: str, first: Any, second: Any) -> Difference:
    is_figure = isinstance(first, tuple) and isinstance(second, tuple) and first[0]
    return Difference(key, _shown(first), _shown(second), second[0] / first[0] if is_figure else None)


def _shown(leaf: Any) -> str:
    if leaf is None:
        return "absent"
    return human(*leaf) if isinstance(leaf, tuple) else str(leaf)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values; a figure is (value, unit), whatever its source."""
    if isinstance(value, dict) and "value" in value:
        yield key, (value["value"], value["unit"])
    elif isinstance(value, dict):
        for name, child in value.items():
            if key or name not in _SAID_ELSEWHERE:
                yield from _leaves(child, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for i, child in enumerate(value):
            yield from _leaves(child, f"{key}[{i}]")
    else:
        yield key, value
