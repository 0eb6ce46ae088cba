"""What a speed depends on that nobody knows beforehand: each as a low, an expected and a high case, with its reason.

Skew is the exponent of estimate's `hit_share`: the hottest share s of a layer's experts meets 1 - (1 - s)^skew of its
demand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..estimate import Engine
from ..estimate.placement import EVEN_SKEW, USUAL_SKEW
from ..machine.profile import HardwareProfile, LatencyTable, Link, Processor, Source
from .model import LLAMA_CPP

# What others published lies between 3 and 8: the 64 hottest of 256 experts of Qwen3.6-35B-A3B met 78 % of a trace of
# the same kind of text (skew 5.2), an LRU of 64 of 512 experts hit 67 % (8.3, llama.cpp's pull 27861).
HIGH_SKEW = 5.0
DATASHEET_RATES = (0.80, 1.13)  # of the rule's own rates: 60 to 85 % of a memory's peak are reached, not always 75 %
LEAST_RATES = (0.95, 1.05)  # of measured rates: nothing repeats more exactly than that
HOST = (1.5, 0.5)  # of an engine's own code, where this machine was not measured


@dataclass(frozen=True)
class Case:
    """One way things may be. `skew`: of routing; `rates`: factor on all rates of the machine; `host`: factor on the
    engine's own time; `filled`: share of the context that is full while it decodes.
    """

    skew: float = USUAL_SKEW
    rates: float = 1.0
    host: float = 1.0
    filled: float = 0.5


@dataclass(frozen=True)
class Unknown:
    """Something the range depends on. `low`, `high`: its ends as fields of a Case; `text`: for people."""

    name: str
    low: dict[str, float]
    high: dict[str, float]
    text: str


def unknowns(profile: HardwareProfile, engine: Engine, context: int, skew: float | None = None) -> list[Unknown]:
    """All that a range depends on. `skew`: where a trace told it, and routing is no longer unknown."""
    found = [_rates(profile), _host(profile, engine)]
    if engine.name != LLAMA_CPP and skew is None:
        text = (
            "which experts a text asks for: low if all are asked for alike, expected by recorded routing of held-out "
            "texts, high where hot experts stay hot; a trace settles it"
        )
        ends = {"skew": EVEN_SKEW}, {"skew": HIGH_SKEW}
        found.insert(0, Unknown("routing skew and locality", *ends, text))
    text = f"attention over what is there: low at all {context:,} tokens, high at none, expected half-way"
    return [*found, Unknown("how full the context is", {"filled": 1.0}, {"filled": 0.0}, text)]


def cases(found: Iterable[Unknown], expected: Case) -> tuple[Case, Case]:
    """Everything at its low end, and everything at its high end."""
    low, high = expected, expected
    for unknown in found:
        low, high = replace(low, **unknown.low), replace(high, **unknown.high)
    return low, high


def _rates(profile: HardwareProfile) -> Unknown:
    if profile.source is not Source.MEASURED:
        low, high = DATASHEET_RATES
        text = f"rates are by datasheet: {low:.2f} to {high:.2f} of them are reached; 'hetsched profile' measures"
        return Unknown("bandwidth spread", {"rates": low}, {"rates": high}, text)
    tables = [table for _, device in profile.processors for table in device.tables if not table.copy_busy]
    half = max([LEAST_RATES[1] - 1, *(table.spread / 2 for table in tables)])
    low, high = 1 / (1 + half), 1 + half
    text = f"half the distance from the 10th to the 90th percentile as measured, {half:.0%}"
    return Unknown("bandwidth spread", {"rates": low}, {"rates": high}, text)


def _host(profile: HardwareProfile, engine: Engine) -> Unknown:
    slow, fast = HOST
    text = f"the engine's own code, {fast:g} to {slow:g} of what is taken for it; not measured here"
    measured = profile.host if engine.name != LLAMA_CPP else None
    if measured and measured.layer_s > 0:
        slow, fast = measured.p90_s / measured.layer_s, measured.p10_s / measured.layer_s
        text = "the engine's own code, 10th to 90th percentile as measured on this machine"
    return Unknown("host overhead", {"host": max(slow, 1.0)}, {"host": min(fast, 1.0)}, text)


def machine_in(case: Case, profile: HardwareProfile) -> HardwareProfile:
    """The machine with its rates, and what was measured of it, as they are in this case."""
    host = profile.host and replace(profile.host, layer_s=case.host * profile.host.layer_s)
    rates = case.rates
    return replace(
        profile,
        cpu=processor_at(profile.cpu, rates),
        gpu=profile.gpu and processor_at(profile.gpu, rates),
        h2d=profile.h2d and _link(profile.h2d, rates),
        d2h=profile.d2h and _link(profile.d2h, rates),
        host=host,
    )


def engine_in(case: Case, engine: Engine) -> Engine:
    """The engine with its own time as it is in this case."""
    factor = case.host
    return replace(
        engine,
        host_layer_s=factor * engine.host_layer_s,
        step_s=factor * engine.step_s,
        kernel_s=factor * engine.kernel_s,
        handover_s=factor * engine.handover_s,
    )


def skew_of(share: float, hit: float) -> float:
    """The skew with which `share` of the experts meets `hit` of the demand; even where either says nothing."""
    if not 0 < share < 1 or not 0 < hit < 1:
        return EVEN_SKEW
    return math.log(1 - hit) / math.log(1 - share)


def processor_at(device: Processor, rates: float, flops: float | None = None) -> Processor:
    """The processor with its memory, and what was measured of it, so many times as fast; `flops`: None, likewise."""
    tables = tuple(_table(table, rates, device.call_s) for table in device.tables)
    dense = tuple(replace(table, median_s_P=_over(table.median_s_P, rates)) for table in device.dense)
    compute = rates if flops is None else flops
    return replace(
        device,
        read_bytes_per_s=device.read_bytes_per_s * rates,
        flops_per_s=device.flops_per_s * compute,
        tables=tables,
        dense=dense,
    )


def _table(table: LatencyTable, rates: float, call_s: float) -> LatencyTable:
    """A call's own time, which is in every point of a table that is not marginal, does not change."""
    fixed_s = 0.0 if table.marginal else call_s
    columns = (_over(column, rates, fixed_s) for column in (table.median_s_P, table.p10_s_P, table.p90_s_P))
    median_s_P, p10_s_P, p90_s_P = columns
    return replace(table, median_s_P=median_s_P, p10_s_P=p10_s_P, p90_s_P=p90_s_P)


def _over(seconds_P: tuple[float, ...], rates: float, fixed_s: float = 0.0) -> tuple[float, ...]:
    return tuple(min(s, fixed_s) + max(0.0, s - fixed_s) / rates for s in seconds_P)


def _link(link: Link, rates: float) -> Link:
    return replace(link, bytes_per_s=rates * link.bytes_per_s)
