"""Measured profiles in the user cache folder: found again by the fingerprint of machine and geometry."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import NamedTuple

from .cache import cache_folder
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


def stored_profiles() -> list[tuple[Path, HardwareProfile]]:
    """Every measured profile in the cache with its path, newest first. Raises FileError for one that does not load."""
    found = [(path, load_profile(path)) for path in sorted(cache_folder("profiles").glob("*.yaml"))]
    return sorted(found, key=lambda pair: (pair[1].date, pair[0].stat().st_mtime), reverse=True)


def find_profile(wanted: Mapping[str, str | int], today: date | None = None) -> FoundProfile | None:
    """The cached profile that differs least from the wanted fingerprint, with warnings; None when none is cached.

    The machine counts before the geometry, and the geometry before the age.
    """
    stored = stored_profiles()
    if not stored:
        return None
    path, profile = min(stored, key=lambda pair: _distance(pair[1].fingerprint, wanted))
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
