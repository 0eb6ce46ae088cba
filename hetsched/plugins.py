"""Plug-ins are entry points; the project's own use the same door.

A spec is an object, "module:Name", or the short name of an installed entry point, in upper or lower case; "name:text"
calls the entry point with that text ("learned:predictor.safetensors").
"""

from __future__ import annotations

import importlib.util
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import InputError, MissingDependencyError, UnknownNameError, known_as

KINDS = {
    "hetsched.solvers": "solver",
    "hetsched.placement_solvers": "placement solver",
    "hetsched.policies": "policy",
    "hetsched.forecasters": "forecaster",
    "hetsched.accelerators": "accelerator",
}


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """Entry points of a group by name. Reads the installed packages' metadata once a process."""
    return {point.name: point for point in entry_points(group=group)}


def installed_name(group: str, spec: str) -> str:
    """A short name as it is installed, whatever its case; anything else as it is."""
    return spec if ":" in spec else known_as(spec, installed(group))


def plugin(group: str, spec: Any) -> Any:
    """The object that `spec` names: itself when it is no string.

    Raises UnknownNameError (lists what is installed and the nearest match) or MissingDependencyError (with the exact
    command).
    """
    if not isinstance(spec, str):
        return spec
    known, spec = installed(group), installed_name(group, spec)
    name, _, argument = spec.partition(":")
    if argument and known_as(name, known) in known:
        return plugin(group, name)(argument)
    if ":" in spec:
        point = EntryPoint(name=spec, value=spec, group=group)
    elif spec in known:
        point = known[spec]
    else:
        raise UnknownNameError(KINDS.get(group, group), spec, known)
    try:
        return point.load()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package and not spec.startswith(package) and importlib.util.find_spec(package) is None:
            command = f"pip install {package}"
            raise MissingDependencyError(package, f"{KINDS.get(group, group)} {spec!r}", command) from error
        raise InputError(f"{spec!r} could not be imported: {error}") from error
    except AttributeError as error:
        raise InputError(f"{spec!r} could not be loaded: {error}; expected 'module:Name'") from error
