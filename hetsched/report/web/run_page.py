"""The page of a run: what it came to, how it went over time, how good predictions were, who lay on the GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...machine.sizes import show_bytes
from .page import Page, Section, Table, Tile
from .run_figures import over_time
from .run_quality import maps, predictions
from .run_series import predicted_and_measured, steps_of

if TYPE_CHECKING:
    from ...runlog import RunLog
    from .run_series import Steps

MOST_LISTED = 200  # events
ORIGINS = {
    "emulated": "Emulated: the model, its routing and every token are real; lanes took the time that the machine's "
    "profile says. No such machine was measured.",
    "simulated": "Simulated: recorded routing was replayed against a model of the machine. Nothing was computed, and "
    "no time was measured on one.",
    "measured": "Measured: seconds are those of the clock on the wall, on the machine named here.",
}


def run_page(log: RunLog) -> Page:
    """A report of one run; what the log has not is said, not drawn. Raises InputError for numbers that are none."""
    steps = steps_of(log) if log.layers else None
    sections = []
    if steps is not None:
        along, each = predictions(log)
        sections.append(Section("Over time", _axis_text(log), [*over_time(log, steps), *along]))
        sections.append(Section("Layers and experts", "Layers from top to bottom.", [*each, *maps(log)]))
    sections.append(_events(log))
    header = log.header
    return Page(
        f"{header.model['name']} on {header.machine.get('name')}",
        f"{header.machine.get('title')}: {header.policy}{f' with {header.solver}' if header.solver else ''}, "
        + (f"{header.slots:,} slots ({show_bytes(header.capacity_bytes)})" if header.slots > 0 else "no slot")
        + " for experts on the GPU.",
        header.clock,
        ORIGINS[header.clock],
        [] if steps is None else _tiles(log, steps),
        sections,
        _warnings(log, steps),
        _facts(log),
    )


def _axis_text(log: RunLog) -> str:
    kind = {"measured": "the wall's seconds", "emulated": "emulated seconds", "simulated": "simulated seconds"}
    return f"Seconds are the run's own: {kind[log.header.clock]} of layers and steps, not what lies between requests."


def _tiles(log: RunLog, steps: Steps) -> list[Tile]:
    clock, tiles = log.header.clock, list[Tile]()
    for prefill, name in ((False, "decoding"), (True, "prefill")):
        bins = steps.bins(prefill)
        if tokens := int(bins.sums["tokens"].sum()):
            speed = tokens / max(bins.took_s.sum(), 1e-12)
            tiles.append(
                Tile(f"{speed:.1f}", f"tokens/s, {name}", f"{clock}; {tokens:,} tokens in {bins.steps:,} steps")
            )
    bins = steps.bins(not steps.has_decode)
    active, tokens = bins.sums["active"].sum(), bins.sums["tokens"].sum()
    if active and log.header.slots > 0:
        tiles.append(
            Tile(f"{bins.sums['hits'].sum() / active:.1%}", "hit rate", "active experts that were there when asked for")
        )
    copies = bins.sums["demand_copies"].sum() + bins.sums["ahead_copies"].sum()
    if tokens and log.header.slots > 0:
        moved = show_bytes(copies / tokens * float(log.header.model["expert_bytes"]))
        tiles.append(Tile(moved, "copied to the GPU", "a token"))
    predicted_N, measured_N, _ = predicted_and_measured(log)
    if len(predicted_N):
        ratio = float(np.median(measured_N / predicted_N))
        tiles.append(Tile(f"{ratio:.2f}×", "of the predicted time", f"layers' {clock} seconds, median"))
    held = log.header.slots / max(sum(_experts_by_layer(log)), 1)
    tiles.append(
        Tile(
            f"{min(held, 1.0):.0%}", "of the experts", f"have room on the GPU: {show_bytes(log.header.capacity_bytes)}"
        )
    )
    tiles.append(Tile(f"{log.seconds:.2f} s", "in all", f"{clock}; {steps.count:,} steps"))
    if log.events:
        tiles.append(Tile(f"{len(log.events):,}", "events", "guard, faults, resizes"))
    return tiles


def _experts_by_layer(log: RunLog) -> list[int]:
    return list(log.header.model.get("experts_by_layer") or [log.header.num_experts] * log.header.num_layers)


def _events(log: RunLog) -> Section:
    if not log.events:
        return Section("Events", "None: no guard acted, nothing failed, no memory was given up.")
    rows = [
        (
            str(event.name),
            _seconds(event.at_s),
            str(event.step),
            "–" if event.layer is None else str(event.layer),
            str(event.text),
        )
        for event in log.events[:MOST_LISTED]
    ]
    rest = len(log.events) - len(rows)
    notes = [f"{rest:,} later events are not listed."] if rest > 0 else []
    return Section("Events", table=Table(("event", "at, s", "step", "layer", "what"), rows), notes=notes)


def _seconds(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else str(value)


def _warnings(log: RunLog, steps: Steps | None) -> list[str]:
    found = []
    if log.end is None:
        found.append(
            "The log has no end: the run was cut short, or is still going on. What follows covers what it holds."
        )
    elif log.end.dropped:
        found.append(
            f"The log was full: {log.end.dropped:,} later layers are not in it, so the end of the run is not shown."
        )
    if steps is None:
        found.append("The log holds no layer, so there is nothing to draw.")
    elif not steps.has_decode:
        found.append("Nothing was decoded: figures are of prefill.")
    if log.header.slots <= 0:
        found.append("No expert had room on a GPU: all of them ran on the CPU, and nothing was copied.")
    if not log.header.lossless:
        found.append("This policy is lossy: it may leave out or replace what the router chose.")
    return found


def _facts(log: RunLog) -> list[tuple[str, str]]:
    header, model = log.header, log.header.model
    shape = f"{model['layers']} MoE layers, {model['top_k']} of {model['experts']} experts, "
    shape += (
        f"{model['hidden']} × {model['ffn']}, {model['dtype']}, {show_bytes(float(model['expert_bytes']))} an expert"
    )
    facts = [("model", str(model["name"])), ("shape", shape)]
    if header.timed_as:
        facts.append(("timed as", f"{header.timed_as['name']}: seconds are of its shape"))
    facts += [
        ("machine", f"{header.machine.get('name')}: {header.machine.get('title')}"),
        ("policy", f"{header.policy}, {'lossless' if header.lossless else 'lossy'}"),
        ("solver", header.solver or "none"),
        ("forecaster", header.forecaster or "none"),
        ("date", header.date),
        ("log", f"{Path(log.path).name}, written by hetsched {header.hetsched}"),
    ]
    return [(name, str(text)) for name, text in facts]
