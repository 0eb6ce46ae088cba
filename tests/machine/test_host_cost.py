"""What the engine itself costs here is kept, found again, and forgotten when it no longer holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from hetsched.machine import gallery
from hetsched.machine.fingerprint import fingerprint, tool_version
from hetsched.machine.host_cost import KnownHost, keep_host, known_host, with_host
from hetsched.machine.profile import HardwareProfile, HostCost, Source
from hetsched.machine.profile_yaml import load_profile, save_profile
from hetsched.machine.store import STALE_DAYS, store_profile, stored

DAY = date(2026, 1, 31)
KNOWN = KnownHost(HostCost(4e-4, 3e-4, 5.5e-4), "by a stopwatch", DAY.isoformat())


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSCHED_CACHE", str(tmp_path / "cache"))


def measured(known: KnownHost, **marks: str | int) -> HardwareProfile:
    """A profile of this machine, or of one that differs in `marks`, with a host."""
    base = replace(
        gallery.machine("rtx-3090"),
        source=Source.MEASURED,
        datasheet=None,
        date=known.date,
        tool=tool_version(),
        fingerprint={**fingerprint(gallery.model("qwen3-30b-a3b")), **marks},
    )
    return with_host(base, known)


def test_it_is_kept_and_found_and_is_no_profile() -> None:
    assert known_host(DAY) is None
    path = keep_host(KNOWN)
    assert known_host(DAY) == KNOWN
    assert stored().profiles == []
    assert stored().damaged == {}
    path.write_text(path.read_text().replace("0.0004,", "-1,"))
    assert known_host(DAY) is None  # no good: it is measured again


@pytest.mark.parametrize("late", [0, 1])
def test_it_grows_old(late: int) -> None:
    keep_host(KNOWN)
    assert (known_host(DAY + timedelta(STALE_DAYS + late)) is None) == bool(late)


def test_another_version_costs_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_host(KNOWN)
    store_profile(measured(KNOWN))
    monkeypatch.setattr("hetsched.machine.fingerprint.tool_version", lambda: "hetsched 99")
    assert known_host(DAY) is None


def test_a_measured_profile_of_this_machine_holds_it() -> None:
    """The newest counts; a profile of another CPU does not."""
    store_profile(measured(KNOWN, cpu="another"))
    assert known_host(DAY) is None
    store_profile(measured(KNOWN))
    assert known_host(DAY) == KNOWN
    newer = KNOWN._replace(cost=HostCost(2e-4, 1e-4, 3e-4), date=(DAY + timedelta(1)).isoformat())
    keep_host(newer)
    assert known_host(DAY) == newer


def test_a_gallery_machine_gets_it_as_measured(tmp_path: Path) -> None:
    """Beside figures from a datasheet it says how it came about, and survives a file."""
    made = with_host(gallery.machine("rtx-4090"), KNOWN)
    assert made.provenance["host.layer_s"] is Source.MEASURED
    assert made.reasons["host.layer_s"] == "by a stopwatch"
    save_profile(made, tmp_path / "p.yaml")
    assert load_profile(tmp_path / "p.yaml") == made
