"""Measured profiles are found again by machine and geometry, and what differs is said."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from hetsched.machine import gallery
from hetsched.machine.fingerprint import GEOMETRY_KEYS, MACHINE_KEYS, digest, fingerprint
from hetsched.machine.profile import HardwareProfile, Source
from hetsched.machine.store import STALE_DAYS, find_profile, store_profile, stored_profiles

GEOMETRY = gallery.model("qwen3-30b-a3b")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSCHED_CACHE", str(tmp_path))


def profile(day: str = "2026-01-31", **changes: str | int) -> HardwareProfile:
    """A profile of this machine and GEOMETRY, some of the fingerprint changed."""
    base = gallery.machine("rtx-3090")
    marks = {**fingerprint(GEOMETRY), **changes}
    return replace(base, source=Source.MEASURED, datasheet=None, date=day, fingerprint=marks)


def test_fingerprint_names_machine_and_geometry() -> None:
    """All that changes a measurement is in it; the digest depends on values, not on their order."""
    marks = fingerprint(GEOMETRY)
    assert set(marks) | {"threads"} == {*MACHINE_KEYS, *GEOMETRY_KEYS}
    assert fingerprint(GEOMETRY, threads=7)["threads"] == 7
    assert digest(marks) == digest(dict(reversed(marks.items())))
    for key in marks:
        assert digest({**marks, key: "other"}) != digest(marks)
    assert fingerprint(GEOMETRY.with_dtype("fp32"))["dtype"] == "fp32"


def test_empty_cache_finds_nothing() -> None:
    """No profile is no profile."""
    assert find_profile(fingerprint(GEOMETRY)) is None


def test_own_profile_is_found_without_a_word() -> None:
    """The same machine, geometry and day: no warning; saving again replaces it."""
    path = store_profile(profile())
    assert store_profile(profile()) == path
    found = find_profile(fingerprint(GEOMETRY), date(2026, 2, 1))
    assert found == (profile(), path, ())
    assert len(stored_profiles()) == 1


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("cpu", "Other CPU", "another machine: cpu Other CPU"), ("ffn", 999, "another geometry: ffn 999, here 768")],
)
def test_another_machine_or_geometry_is_used_with_a_warning(key: str, value: str | int, words: str) -> None:
    """The nearest profile serves, and the warning names key, its value and ours."""
    store_profile(profile(**{key: value}))
    found = find_profile(fingerprint(GEOMETRY), date(2026, 2, 1))
    assert found is not None
    assert len(found.warnings) == 1
    assert words in found.warnings[0]


def test_old_profile_is_used_with_its_age() -> None:
    """One day beyond the limit is old, the limit itself is not."""
    store_profile(profile("2026-01-01"))
    marks = fingerprint(GEOMETRY)
    limit = date.fromordinal(date(2026, 1, 1).toordinal() + STALE_DAYS)
    at, beyond = find_profile(marks, limit), find_profile(marks, date.fromordinal(limit.toordinal() + 1))
    assert at is not None
    assert beyond is not None
    assert at.warnings == ()
    assert "2026-01-01" in beyond.warnings[0]


def test_right_machine_comes_before_right_geometry() -> None:
    """Another model's profile of this machine beats this model's profile of another machine."""
    store_profile(profile(cpu="Other CPU"))
    mine = store_profile(profile(ffn=999, hidden=5))
    found = find_profile(fingerprint(GEOMETRY), date(2026, 2, 1))
    assert found is not None
    assert found.path == mine
