"""Plug-ins are entry points; the project's own use the same door.

A spec is an object, "module:Name", or the short name of an installed entry point, in upper or lower case; a name may
be followed by arguments of its constructor: "class-lru+cpu_share=0.25+half_life=64".
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import re
from collections.abc import Callable
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
    "hetsched.formats": "weight format",
}


_KINDS: dict[type, tuple[Callable[[str], Any], str]] = {  # of defaults: how they are read, and what they are called
    bool: (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
}
_TUNING = re.compile(r"\+(?=[A-Za-z_]\w*=)")


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """Entry points of a group by name. Reads the installed packages' metadata once a process."""
    return {point.name: point for point in entry_points(group=group)}


def installed_name(group: str, spec: str) -> str:
    """A short name as it is installed, whatever its case, arguments kept; anything else as it is."""
    name, *arguments = _TUNING.split(spec)
    return spec if ":" in name else "+".join([known_as(name, installed(group)), *arguments])


def plugin(group: str, spec: Any) -> Any:
    """The object that `spec` names: itself when it is no string; where arguments follow the name, one made with them.

    Raises UnknownNameError (lists what is installed and the nearest match), MissingDependencyError (with the exact
    command), or InputError for arguments that the constructor does not take.
    """
    if not isinstance(spec, str):
        return spec
    name, *arguments = _TUNING.split(spec)
    found = _loaded(group, name)
    return _tuned(name, found, arguments) if arguments else found


def tuning_of(spec: str) -> str:
    """What follows the name in a spec: "+cpu_share=0.25", or nothing."""
    return spec[len(_TUNING.split(spec)[0]) :]


def _tuned(name: str, found: Any, arguments: list[str]) -> Any:
    """A class called with "key=value" arguments, each of the kind that its default is: a number, true, else text."""
    known = dict(inspect.signature(found).parameters) if isinstance(found, type) else {}
    given = dict(argument.split("=", 1) for argument in arguments)
    if wrong := [key for key in given if key not in known]:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise InputError(f"{name} has no argument {wrong[0]!r}; {takes}")
    return found(**{key: _value(f"{name}'s {key}", text, known[key].default) for key, text in given.items()})


def _value(what: str, text: str, usual: Any) -> Any:
    """The text as what the default is. Raises InputError where it is none."""
    kind = type(usual)
    if kind not in _KINDS:
        return text
    read, said = _KINDS[kind]
    try:
        value = read(text)
    except (ValueError, KeyError):
        value = math.nan
    if value != value:
        raise InputError(f"{what} is {text!r:.60}; it takes {said}")
    return value


def _loaded(group: str, spec: str) -> Any:
    known, spec = installed(group), installed_name(group, spec)
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


def instance(group: str, spec: Any) -> Any:
    """An object of a plug-in: the spec itself, or its class called without arguments."""
    found = plugin(group, spec)
    return found() if isinstance(found, type) else found
