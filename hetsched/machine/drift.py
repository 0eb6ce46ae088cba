"""Machines that are not as a profile says: slower or faster parts, from the beginning or from some step on.

Written after a machine's name: "rtx-3090+cpu=10" takes ten times as long on the CPU, "rtx-3090+link=10@50" ten times as
long for copies from step 50 on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..errors import InputError
from .profile import HardwareProfile, Link, Processor

PARTS = ("gpu", "cpu", "link")
LEAST, MOST = 1e-3, 1e3  # of a factor: what is off by more is another machine
_GIVEN = re.compile(r"\+(?=(?:gpu|cpu|link)=)")


class Drift(NamedTuple):
    """From step `from_step` on, each part takes its factor times a profile's seconds; "gpu" with a layer's rest."""

    from_step: int = 0
    gpu: float = 1.0
    cpu: float = 1.0
    link: float = 1.0


@dataclass(frozen=True)
class TrueMachine:
    """What work really takes: a profile's seconds times the factors of the last drift that has begun.

    Raises InputError for factors out of range, and for steps that do not ascend.
    """

    profile: HardwareProfile
    drifts: tuple[Drift, ...] = ()

    def __post_init__(self) -> None:
        check_drifts(self.drifts)

    @property
    def name(self) -> str:
        """The profile's, and what it drifts to."""
        return self.profile.name + "".join(_said(drift) for drift in self.drifts)

    def spans(self) -> list[tuple[int, HardwareProfile]]:
        """The first step of each span of steps, 0 first, and the machine in it."""
        begun = [(drift.from_step, slowed(self.profile, *drift[1:])) for drift in self.drifts]
        return begun if begun and begun[0][0] == 0 else [(0, self.profile), *begun]


def check_drifts(drifts: Sequence[Drift]) -> None:
    """Raise InputError for factors out of range, and for steps that do not ascend."""
    steps = [drift.from_step for drift in drifts]
    if any(step < 0 for step in steps) or steps != sorted(set(steps)):
        raise InputError(
            f"drifts begin at steps {steps}; each must begin after the one before, the first at 0 or later"
        )
    for drift in drifts:
        for part, factor in zip(PARTS, drift[1:], strict=True):
            _check_factor(part, factor)


def slowed(profile: HardwareProfile, gpu: float = 1.0, cpu: float = 1.0, link: float = 1.0) -> HardwareProfile:
    """The machine with each part taking so many times as long; below 1 it is faster. Its name says so."""
    said = _said(Drift(0, gpu, cpu, link))
    return replace(
        profile,
        name=profile.name + said,
        cpu=_slowed_processor(profile.cpu, cpu),
        gpu=None if profile.gpu is None else _slowed_processor(profile.gpu, gpu),
        h2d=None if profile.h2d is None else _slowed_link(profile.h2d, link),
        d2h=None if profile.d2h is None else _slowed_link(profile.d2h, link),
        notes=(*profile.notes, f"seconds of {profile.name} times {said[1:].replace('+', ', ')}")
        if said
        else profile.notes,
    )


def named_drifts(text: str) -> tuple[str, tuple[Drift, ...]]:
    """A machine's name, and what follows it. Raises InputError for what is no factor or step."""
    name, *given = _GIVEN.split(text)
    changes = sorted((_change(text, part) for part in given), key=lambda change: change[0])
    drifts: dict[int, Drift] = {}
    now = Drift()
    for step, part, factor in changes:
        now = now._replace(from_step=step, **{part: factor})
        drifts[step] = now
    return name, tuple(drifts.values())


def _change(text: str, given: str) -> tuple[int, str, float]:
    part, _, rest = given.partition("=")
    factor, _, step = rest.partition("@")
    try:
        read = float(factor), int(step or 0)
    except ValueError:
        raise InputError(
            f"{given!r:.60} in {text!r:.60} is no factor; write {part}=10, or {part}=10@50 from step 50 on"
        ) from None
    _check_factor(part, read[0])
    return read[1], part, read[0]


def _check_factor(part: str, factor: float) -> None:
    if not (math.isfinite(factor) and LEAST <= factor <= MOST):
        raise InputError(f"{part} takes {factor:g} times its seconds; the factor must lie in {LEAST:g}..{MOST:g}")


def _said(drift: Drift) -> str:
    at = f"@{drift.from_step}" if drift.from_step else ""
    changed = [f"+{part}={factor:g}{at}" for part, factor in zip(PARTS, drift[1:], strict=True) if factor != 1.0]
    return "".join(changed)


def _slowed_processor(device: Processor, factor: float) -> Processor:
    if factor == 1.0:
        return device

    def times(column: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(factor * seconds for seconds in column)

    return replace(
        device,
        read_bytes_per_s=device.read_bytes_per_s / factor,
        flops_per_s=device.flops_per_s / factor,
        call_s=device.call_s * factor,
        per_expert_s=device.per_expert_s * factor,
        dense_call_s=device.dense_call_s * factor,
        tables=tuple(
            replace(t, median_s_P=times(t.median_s_P), p10_s_P=times(t.p10_s_P), p90_s_P=times(t.p90_s_P))
            for t in device.tables
        ),
        dense=tuple(replace(t, median_s_P=times(t.median_s_P)) for t in device.dense),
    )


def _slowed_link(link: Link, factor: float) -> Link:
    if factor == 1.0:
        return link
    return replace(
        link,
        latency_s=link.latency_s * factor,
        bytes_per_s=link.bytes_per_s / factor,
        pageable_latency_s=link.pageable_latency_s * factor,
        pageable_bytes_per_s=link.pageable_bytes_per_s / factor,
    )
