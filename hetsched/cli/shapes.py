"""Which model a verb that loads no weights is to count with: a gallery's name, a config, or a GGUF file's header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hetsched.geometry import MoEGeometry
from hetsched.machine import gallery


def model_named(name: str, dtype: str | None = None) -> MoEGeometry:
    """The geometry, stored as `dtype` (None: as published). Raises InputError for what is none."""
    model, rest = model_or_name(name, dtype)
    return model if isinstance(model, MoEGeometry) else gallery.model(model, rest)


def model_or_name(name: str, dtype: str | None = None) -> tuple[MoEGeometry | str, str | None]:
    """A GGUF file's geometry and no dtype to change it to; anything else as it is, for who knows it by name."""
    if not is_gguf_name(name):
        return name, dtype
    from hetsched.loading.gguf_geometry import geometry_of_gguf

    geometry, _ = geometry_of_gguf(name)
    return geometry if dtype is None else geometry.with_dtype(dtype), None


def config_named(name: str) -> dict[str, Any]:
    """What of its config decides a model's geometry."""
    if not is_gguf_name(name):
        return gallery.model_config(name)
    from hetsched.loading.gguf_geometry import geometry_of_gguf

    return geometry_of_gguf(name)[1]


def is_gguf_name(name: str) -> bool:
    """Whether a name is that of a GGUF file."""
    return Path(name).suffix.lower() == ".gguf"
