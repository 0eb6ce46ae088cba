"""Measured profiles in the user cache folder: found again by the fingerprint of machine and geometry."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import NamedTuple

from ..cache import cache_folder, cache_place
from ..errors import InputError
from .fingerprint import GEOMETRY_KEYS, MACHINE_KEYS, digest
from .profile import HardwareProfile
from .profile_yaml import load_profile, save_profile

STALE_DAYS = 90  # drivers, kernels and neighbours change; an older profile is used, and said to be old


class FoundProfile(NamedTuple):
    """A profile with the path it came from and what the user should know before believing it."""

    profile: HardwareProfile
    path: Path
    warnings: tuple[str, ...]


def store_profile(profile: HardwareProfile) -> Path:
    """Save a measured profile in the cache under its fingerprint; the path."""
    path = cache_folder("profiles") / f"{digest(profile.fingerprint)}.yaml"
    save_profile(profile, path)
    return path


class TensorHeader(NamedTuple):
    """What the cache holds: profiles with their paths, newest first, and an error for each file that does not load."""

    profiles: list[tuple[Path, HardwareProfile]]
    damaged: dict[Path, InputError]

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line for each file that was skipped, with what mends it."""
        return tuple(
            f"a measured profile was skipped: {error}; delete the file, or run 'hetsched profile' again"
            for error in self.damaged.values()
        )


def stored() -> TensorHeader:
    """All of the cache's profiles. One bad file spoils nothing but itself, and no cache at all is an empty one."""
    found: list[tuple[float, Path, HardwareProfile]] = []
    damaged: dict[Path, InputError] = {}
    for path in sorted(cache_place("profiles").glob("*.yaml")):
        loaded = _loaded(path)
        if isinstance(loaded, InputError):
            damaged[path] = loaded
        else:
            found.append((loaded[0], path, loaded[1]))
    found.sort(key=lambda row: (row[2].date, row[0]), reverse=True)
    return TensorHeader([(path, profile) for _, path, profile in found], damaged)


def _loaded(path: Path) -> tuple[float, HardwareProfile] | InputError:
    """When a file was written and what it holds, or why it holds nothing."""
    try:
        profile = load_profile(path)
        return path.stat().st_mtime, profile
    except OSError as error:  # removed at this moment
        return InputError(f"cannot read {path}: {error.strerror}")
    except InputError as error:
        return error


def stored_profiles() -> list[tuple[Path, HardwareProfile]]:
    """Every measured profile in the cache that loads, with its path, newest first."""
    return stored().profiles


def find_profile(wanted: Mapping[str, str | int], today: date | None = None) -> FoundProfile | None:
    """The cached profile that differs least from the wanted fingerprint, with warnings; None when none is cached.

    The machine counts before the geometry, and the geometry before the age.
    """
    found = stored_profiles()
    if not found:
        return None
    path, profile = min(found, key=lambda pair: _distance(pair[1].fingerprint, wanted))
    return FoundProfile(profile, path, _warnings(profile, wanted, today))


def _warnings(profile: HardwareProfile, wanted: Mapping[str, str | int], today: date | None = None) -> tuple[str, ...]:
    """What differs between the profile's fingerprint and the wanted one, and whether it is old; empty when it fits."""
    warnings = []
    for kind, keys in (("machine", MACHINE_KEYS), ("geometry", GEOMETRY_KEYS)):
        pairs = [(key, profile.fingerprint.get(key, "unknown"), wanted[key]) for key in keys if key in wanted]
        changes = [f"{key} {theirs}, here {ours}" for key, theirs, ours in pairs if theirs != ours]
        if changes:
            warnings.append(f"profile of another {kind}: {'; '.join(changes)}")
    age = ((today or date.today()) - date.fromisoformat(profile.date)).days
    if age > STALE_DAYS:
        warnings.append(f"profile is {age} days old, measured on {profile.date}; run 'hetsched profile' again")
    return tuple(warnings)


def _distance(theirs: Mapping[str, str | int], wanted: Mapping[str, str | int]) -> tuple[int, int]:
    def wrong(keys: tuple[str, ...]) -> int:
        return sum(theirs.get(key) != wanted[key] for key in keys if key in wanted)

    return wrong(MACHINE_KEYS), wrong(GEOMETRY_KEYS)
