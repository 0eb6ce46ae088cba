"""Plug-ins are entry points; the project's own use the same door.

A spec is an object, "module:Name", or the short name of an installed entry point, in upper or lower case; a name may
be followed by arguments of its constructor: "class-lru+cpu_share=0.25+half_life=64". What a spec names is called only
if it has the methods of its kind: `sys:exit` is no solver.
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
METHODS = {  # what each kind has to have, of its protocol
    "hetsched.solvers": ("solve",),
    "hetsched.placement_solvers": ("solve",),
    "hetsched.policies": ("start", "plan", "observe", "prefetch"),
    "hetsched.forecasters": ("start", "observe", "demand_LE", "next_LE"),
    "hetsched.accelerators": ("allocate", "copy_in", "launch", "begin_layer", "end_layer", "close"),
    "hetsched.formats": ("parts", "num_bytes", "unpack", "pack"),
}
_GIVEN = {"hetsched.accelerators": 1}  # how many arguments its maker hands to a class, where that is any

_KINDS: dict[type, tuple[Callable[[str], Any], str]] = {  # of defaults: how they are read, and what they are called
    bool: (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
}
_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
MOST = 10**9  # of a number that follows a name; one whose default is not negative is not either
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
    command), or InputError for what is no such plug-in, or arguments that the constructor does not take.
    """
    if not isinstance(spec, str):
        _refuse_needy(group, spec, _fitting(group, spec, spec))
        return spec
    name, *arguments = _TUNING.split(spec)
    found = _fitting(group, name, _loaded(group, name))
    if arguments:
        return _tuned(name, found, arguments)
    _refuse_needy(group, name, found)
    return found


def tuning_of(spec: str) -> str:
    """What follows the name in a spec: "+cpu_share=0.25", or nothing."""
    return spec[len(_TUNING.split(spec)[0]) :]


def _fitting(group: str, spec: Any, found: Any) -> Any:
    """What was found, if it has the methods of its kind. Raises InputError before anything of it is called."""
    wanted = METHODS.get(group, ())
    missing = [method for method in wanted if not callable(getattr(found, method, None))]
    kind, named = KINDS.get(group, group), f"{spec!r:.100}"
    if missing:
        raise InputError(f"{named} is no {kind}: it has no method {missing[0]}; name one that is installed, or a class")
    if not isinstance(found, type) and not isinstance(getattr(found, "name", None), str):
        raise InputError(f"{named} is no {kind}: it has no name; give it one, a text")
    if isinstance(found, type) and (getattr(found, "_is_protocol", False) or inspect.isabstract(found)):
        raise InputError(f"{named} says what a {kind} has, and is none itself; name a class that has it")
    return found


def _refuse_needy(group: str, spec: Any, found: Any) -> None:
    """Raise InputError for a class whose constructor wants arguments that nobody gives."""
    if not isinstance(found, type):
        return
    needed = [known.name for known in _parameters(found) if known.default is known.empty and known.kind in _NAMED]
    if missing := needed[_GIVEN.get(group, 0) :]:
        how = f"write {spec:.100}+{missing[0]}=..." if isinstance(spec, str) else "give an object"
        raise InputError(f"{spec!r:.100} wants the argument {missing[0]!r}; {how}, or let it have a default")


def _parameters(found: type) -> list[inspect.Parameter]:
    """Of a class's constructor; none where it is written in C and does not say."""
    try:
        return list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):
        return []


def _made(name: str, found: Any, **given: Any) -> Any:
    """A class called; whatever it raises is the user's to know in one line."""
    try:
        return found(**given)
    except (InputError, ImportError):
        raise
    except Exception as error:
        raise InputError(f"{name:.100} could not be made: {type(error).__name__}: {error}") from error


def _tuned(name: str, found: Any, arguments: list[str]) -> Any:
    """A class called with "key=value" arguments, each of the kind that its default is: a number, true, else text."""
    known = {known.name: known for known in _parameters(found)} if isinstance(found, type) else {}
    given = dict(argument.split("=", 1) for argument in arguments)
    if wrong := [key for key in given if key not in known]:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise InputError(f"{name} has no argument {wrong[0]!r}; {takes}")
    return _made(
        name, found, **{key: _value(f"{name}'s {key}", text, known[key].default) for key, text in given.items()}
    )


def _value(what: str, text: str, usual: Any) -> Any:
    """The text as what the default is. Raises InputError where it is none, or no number that anything could be."""
    kind = type(usual)
    if usual is None or kind is str or usual is inspect.Parameter.empty:
        return text
    if kind not in _KINDS:
        raise InputError(f"{what} is {kind.__name__}, which no text says; make an object in Python, and hand that over")
    read, said = _KINDS[kind]
    least = 0 if usual >= 0 else -MOST
    try:
        value = read(text)
    except (ValueError, KeyError, OverflowError):
        value = math.nan
    if not least <= value <= MOST:
        ends = "" if kind is bool else f" from {least:g} to {MOST:g}"
        raise InputError(f"{what} is {text!r:.60}; it takes {said}{ends}")
    return value


def _loaded(group: str, spec: str) -> Any:
    known, spec = installed(group), installed_name(group, spec)
    if ":" in spec:
        _refuse_malformed(group, spec)
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
        raise InputError(f"{spec!r:.100} could not be imported: {error}") from error
    except AttributeError as error:
        raise InputError(f"{spec!r:.100} could not be loaded: {error}; expected 'module:Name'") from error
    except (Exception, SystemExit) as error:  # of the module's own code
        raise InputError(f"{spec!r:.100} could not be imported: {type(error).__name__}: {error}") from error


def _refuse_malformed(group: str, spec: str) -> None:
    """Raise InputError for what is no "module:Name": a relative module, an empty half, what is no name."""
    module, _, name = spec.partition(":")
    if not all(part.isidentifier() for half in (module, name) for part in half.split(".")):
        kind = KINDS.get(group, group)
        raise InputError(f"{kind} {spec!r:.100} is not understood; write an installed name, or 'module:Name'")


def instance(group: str, spec: Any) -> Any:
    """An object of a plug-in: the spec itself, or its class called without arguments."""
    found = plugin(group, spec)
    return _made(f"{spec}", found) if isinstance(found, type) else found
