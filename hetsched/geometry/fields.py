"""Fields of a config, by any of the names that models have for the same thing."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from .checks import brief, require_whole


def first(values: dict[str, Any], *names: str) -> Any:
    """The first of these names that is set; of one number a layer or a modality, the largest."""
    for name in names:
        value = values.get(name)
        if isinstance(value, (list, tuple)):
            try:
                value = max(value, default=None)
            except TypeError:
                raise InputError(f"{name} of the config is {brief(value)}; it must hold numbers") from None
        if value is not None:
            return value
    return None


def whole(values: dict[str, Any], most: int, *names: str) -> int:
    """The first of these names that is set, as a whole number from 0 to `most`; 0 where none is.

    Raises InputError naming the one that is something else.
    """
    value = first(values, *names)
    if value is None:
        return 0
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return require_whole(
        value, 0, most, f"{next(name for name in names if values.get(name) is not None)} of the config"
    )
