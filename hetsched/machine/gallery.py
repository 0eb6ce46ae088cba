"""Gallery: the machines and models that come with hetsched, by name; a path works wherever a name does.

The files lie in the top-level `profiles/` of a checkout and in `hetsched/_profiles` of an installed wheel.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ..errors import InputError, UnknownNameError
from ..geometry import MoEGeometry
from .demo_geometry import DEMO, demo_config, demo_geometry
from .drift import TrueMachine, named_drifts, slowed
from .model_yaml import ModelCard, load_config, load_geometry, load_model_card
from .profile import HardwareProfile
from .profile_yaml import load_profile

_PACKAGE = Path(__file__).resolve().parents[1]


def gallery_folder() -> Path:
    """Folder that holds `machines/` and `models/`."""
    installed = _PACKAGE / "_profiles"
    return installed if installed.is_dir() else _PACKAGE.parent / "profiles"


@cache
def machines() -> dict[str, Path]:
    """Files of the gallery's machines by name."""
    return _files("machines")


@cache
def models() -> dict[str, Path]:
    """Files of the gallery's models by name."""
    return _files("models")


def machine(name: str | Path) -> HardwareProfile:
    """A machine by gallery name or path of a profile file, with other seconds where drift.py's factors follow.

    Raises UnknownNameError, which lists the names, or FileError with all problems of the file; InputError for factors
    that begin at some step, since a profile is of one moment.
    """
    plain, drifts = named_drifts(str(name))
    if any(drift.from_step for drift in drifts):
        raise InputError(f"{name} changes midway, and a profile does not; only a replay's true hardware can")
    return slowed(_plain_machine(plain), *drifts[0][1:]) if drifts else _plain_machine(name)


def true_machine(spec: str | Path | HardwareProfile | TrueMachine) -> TrueMachine:
    """What work really takes, from a name or path with what follows it (drift.py), a profile, or as it is."""
    if isinstance(spec, TrueMachine):
        return spec
    if isinstance(spec, HardwareProfile):
        return TrueMachine(spec)
    plain, drifts = named_drifts(str(spec))
    return TrueMachine(_plain_machine(plain), drifts)


def _plain_machine(name: str | Path) -> HardwareProfile:
    path = machines().get(str(name).lower()) or _as_path(name)
    if path is None:
        fix = "or give the path of a profile YAML; 'hetsched profiles derive' makes one of a datasheet"
        raise UnknownNameError("machine", str(name), machines(), fix)
    modified_ns = path.stat().st_mtime_ns if path.exists() else 0  # load_profile says that it is not there
    return _loaded(path, modified_ns)


@cache
def _loaded(path: Path, modified_ns: int) -> HardwareProfile:
    """A profile is read once as long as its file stays as it is."""
    return load_profile(path)


def model(name: str | Path, dtype: str | None = None) -> MoEGeometry:
    """A model's geometry by gallery name, Hugging Face repository id, or path; "demo" is the demo model's.

    A path names a model file, a config.json or a folder with one. `dtype` None: as published; else a format's name, or
    GATE_AND_UP/DOWN. Raises UnknownNameError, which lists the names.
    """
    if str(name).lower() == DEMO:
        return demo_geometry(dtype)
    return load_geometry(_model_file(name), dtype)


def model_config(name: str | Path) -> dict[str, Any]:
    """What of its config decides a model's geometry, by what `model` takes; raises as that does."""
    return demo_config() if str(name).lower() == DEMO else load_config(_model_file(name))


def _model_file(name: str | Path) -> Path:
    path = models().get(_short(str(name))) or _as_path(name)
    if path is None:
        raise UnknownNameError("model", str(name), [*models(), DEMO], "or give the path of a config.json")
    return path


def has_model(name: str) -> bool:
    """Whether the gallery has a model of that name or Hugging Face repository id."""
    return _short(name) in models()


def model_card(name: str) -> ModelCard:
    """A gallery model with its variants and published figures."""
    path = models().get(_short(name))
    if path is None:
        raise UnknownNameError("model", name, models())
    return load_model_card(path)


def _files(kind: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted((gallery_folder() / kind).glob("*.yaml"))}


@cache
def _repositories() -> dict[str, str]:
    return {load_model_card(path).repository.lower(): name for name, path in models().items()}


def _short(name: str) -> str:
    lowered = name.lower()
    return _repositories().get(lowered, lowered) if lowered.count("/") == 1 else lowered


def _as_path(name: str | Path) -> Path | None:
    try:
        path = Path(name).expanduser()
        looks_like_one = path.suffix in (".yaml", ".yml", ".json") or path.exists()
    except (OSError, RuntimeError, ValueError):  # too long, ~ of nobody, a NUL: no path
        return None
    return path if str(name).strip() and looks_like_one else None
