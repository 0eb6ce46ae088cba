"""The engine's own time on this machine, found again: in a measured profile, or in a file of its own beside those."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

from ..cache import cache_folder, cache_place
from ..errors import InputError
from .fingerprint import digest, host_fingerprint
from .profile import HardwareProfile, HostCost, Source
from .profile_yaml import read_host
from .store import STALE_DAYS, stored_profiles
from .units import Figures
from .yaml_lines import Node, read_yaml, write_yaml

SCHEMA = "hetsched-host/1"
FIGURE = "host.layer_s"  # of a profile; its reason says how it was measured


class KnownHost(NamedTuple):
    """A host cost that was measured on this machine, how, and on which day."""

    cost: HostCost
    how: str
    date: str


def with_host(profile: HardwareProfile, known: KnownHost) -> HardwareProfile:
    """The profile with this host's own time, measured, whatever its other figures are."""
    sources = {} if profile.source is Source.MEASURED else dict.fromkeys(_figures(), Source.MEASURED)
    return replace(
        profile,
        host=known.cost,
        provenance={**profile.provenance, **sources},
        reasons={**profile.reasons, FIGURE: known.how},
    )


def known_host(today: date | None = None) -> KnownHost | None:
    """What was measured here by this version and is not old: the newest; None where there is nothing."""
    here, now = host_fingerprint(), today or date.today()
    found = [
        KnownHost(profile.host, profile.reasons.get(FIGURE, ""), profile.date)
        for _, profile in stored_profiles()
        if profile.host and {**profile.fingerprint, "tool": profile.tool}.items() >= here.items()
    ]
    with contextlib.suppress(InputError):  # not there, or no good: it is measured again
        found.append(read_yaml(_place(here), SCHEMA, _read))
    found = [known for known in found if (now - date.fromisoformat(known.date)).days <= STALE_DAYS]
    return max(found, key=lambda known: known.date, default=None)


def keep_host(known: KnownHost) -> Path:
    """Write it where known_host() finds it. Raises InputError where the cache cannot be written."""
    here = host_fingerprint()
    cache_folder("profiles")
    figures = {name: {"value": seconds, "unit": "s"} for name, seconds in asdict(known.cost).items()}
    write_yaml(
        _place(here), {"schema": SCHEMA, "date": known.date, "how": known.how, "host": figures, "fingerprint": here}
    )
    return _place(here)


def _place(here: Mapping[str, str | int]) -> Path:
    return cache_place("profiles", f"host-{digest(here)}.yml")  # profiles are *.yaml


def _figures() -> list[str]:
    return [f"host.{name}" for name in HostCost.__dataclass_fields__]


def _read(root: Node) -> KnownHost:
    day, how = root.text("date", required=True), root.text("how")
    root.get("fingerprint")
    cost = read_host(root.get("host", required=True), Figures(Source.MEASURED)) or HostCost(0.0, 0.0, 0.0)
    try:
        date.fromisoformat(day)
    except ValueError:
        root.note(f"has no date: {day!r}")
    return KnownHost(cost, how, day)
