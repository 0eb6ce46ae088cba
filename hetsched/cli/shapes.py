"""Which model a verb that loads no weights is to count with: a gallery's name, a config, or a GGUF file's header."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hetsched.geometry import BITS_ALONE, WEIGHT_BITS, MoEGeometry
from hetsched.machine import gallery


def model_named(name: str, dtype: str | None = None) -> MoEGeometry:
    """The geometry, stored as `dtype` (None: as published). Raises InputError for what is none."""
    model, rest = model_or_name(name, dtype)
    return model if isinstance(model, MoEGeometry) else gallery.model(model, rest)


def model_or_name(name: str, dtype: str | None = None) -> tuple[MoEGeometry | str, str | None]:
    """A GGUF file's geometry and no dtype to change it to; anything else as it is, for who knows it by name."""
    say_if_estimate(dtype)
    if not is_gguf_name(name):
        return name, dtype
    from hetsched.loading.gguf_geometry import geometry_of_gguf

    geometry, _ = geometry_of_gguf(name)
    return geometry if dtype is None else geometry.with_dtype(dtype), None


def say_if_estimate(dtype: str | None) -> None:
    """Say on standard error that a width alone is no format."""
    if dtype is not None and dtype.lower() in BITS_ALONE:
        formats = ", ".join(name for name in WEIGHT_BITS if name not in BITS_ALONE)
        print(
            f"hetsched: {dtype} is a width, not a format: an estimate that no engine runs; formats: {formats}",
            file=sys.stderr,
        )


def config_named(name: str) -> dict[str, Any]:
    """What of its config decides a model's geometry."""
    if not is_gguf_name(name):
        return gallery.model_config(name)
    from hetsched.loading.gguf_geometry import geometry_of_gguf

    return geometry_of_gguf(name)[1]


def is_gguf_name(name: str) -> bool:
    """Whether a name is that of a GGUF file."""
    return Path(name).suffix.lower() == ".gguf"
