"""Figures of a run over time: speed, where experts ran, bytes, lanes, and where a token's time went."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...types import FloatArray
from .drawing import BLUE, GREEN, GRID, LANES, ORANGE, PURPLE, RED, SKY, SOFT, layers_of, legend, panel, stairs
from .page import Figure

if TYPE_CHECKING:
    from ...runlog import RunLog
    from .run_series import Bins, Steps

MIB = 2**20
MOST_EVENTS = 40  # lines of events in a picture
PLACES = (("resident", GREEN), ("here", PURPLE), ("under_way", SKY), ("fetched", RED), ("cpu", BLUE))
PARTS = (("dense_s", SOFT), ("host_s", PURPLE), ("decide_s", ORANGE), ("experts_s", BLUE), ("rest", GRID))
NAMES = {
    "resident": "there", "here": "there, run by CPU", "under_way": "on its way", "fetched": "fetched", "cpu": "CPU",
    "dense_s": "dense part", "host_s": "engine", "decide_s": "deciding", "experts_s": "experts", "rest": "other",
    "demand_copies": "asked for", "ahead_copies": "ahead",
}  # fmt: skip


def over_time(log: RunLog, steps: Steps) -> list[Figure]:
    """Figures over the run's seconds, of decoding; of prefill where nothing was decoded."""
    prefill = not steps.has_decode
    bins, origin = steps.bins(prefill), log.header.clock
    what = "prefill" if prefill else "decoding"
    spans = [] if prefill else [tuple(edge) for edge in steps.bins(True).edges_s]
    marks = [event.at_s for event in log.events[:MOST_EVENTS] if isinstance(event.at_s, int | float)]
    speed = bins.tokens_per_s
    seen = f"Of {what}; {bins.steps_text}." + (" Grey: prefill." if spans else "")
    hit_share = _of(bins, "hits", "active")
    made = [
        Figure(
            "speed", "Tokens per second", origin,
            seen + (" Upright lines: events, listed below." if marks else "") + " Dashed: the mean.",
            f"Tokens per second of {what} over {steps.end_s_S[-1]:.3g} seconds: from {speed.min():.1f} to {speed.max():.1f}, "
            f"on average {_mean_speed(bins):.1f}.",
            partial(_draw_speed, bins, spans, marks),
        ),
        Figure(
            "places", "Hit rate", origin,
            seen + " Active experts that lay on the GPU, whole, when asked for, and what became of the others.",
            f"Where active experts ran: {hit_share:.0%} were on the GPU when asked for, {_of(bins, 'under_way', 'active'):.0%} on "
            f"their way, {_of(bins, 'fetched', 'active'):.0%} were fetched, {_of(bins, 'cpu', 'active'):.0%} ran on the CPU.",
            partial(_draw_bands, bins, _shares(bins), spans, "% of active experts", 100.0),
        ),
    ]  # fmt: skip
    if bins.sums["demand_copies"].any() or bins.sums["ahead_copies"].any():
        made.append(_bytes(log, bins, origin, seen, spans))
    made += [
        Figure(
            "lanes", "Lanes' utilisation", origin,
            seen + " Seconds that a lane was busy over all seconds; lanes overlap.",
            "Utilisation of lanes: "
            + ", ".join(f"{lane} {busy.mean():.0%}" for lane, busy in _busy(bins).items() if len(busy)) + " on average.",
            partial(_draw_lanes, bins, spans),
        ),
        Figure(
            "time", "Where a token's time went", origin,
            seen + " Experts: from the decision to the end of the last lane. Other: head, sampling and whatever else lies "
            "between layers.",
            "Milliseconds a token: " + ", ".join(f"{NAMES[k]} {v:.2f}" for k, v in _mean_parts(bins).items()) + ".",
            partial(_draw_bands, bins, _parts(bins), spans, "ms a token", None),
        ),
    ]  # fmt: skip
    return made


def _bytes(log: RunLog, bins: Bins, origin: str, seen: str, spans: Sequence[Any]) -> Figure:
    each = float(log.header.model["expert_bytes"]) / MIB
    kinds = (("demand_copies", RED), ("ahead_copies", SKY))
    heights = {name: (bins.per_token(name) * each, colour) for name, colour in kinds}
    tokens = max(bins.sums["tokens"].sum(), 1.0)
    demand, ahead = (bins.sums[name].sum() * each / tokens for name, _ in kinds)
    return Figure(
        "bytes", "Bytes over the link", origin,
        seen + " Copies of experts into GPU memory by when they were begun: as they were asked for, or ahead of that.",
        f"MiB copied to the GPU a token: {demand:.1f} asked for and {ahead:.1f} ahead, on average.",
        partial(_draw_bands, bins, heights, spans, "MiB a token", None),
    )  # fmt: skip


def _shares(bins: Bins) -> dict[str, tuple[FloatArray, str]]:
    active_B = bins.sums["active"]
    return {name: (100 * bins.over(name, active_B), colour) for name, colour in PLACES if bins.sums[name].any()}


def _parts(bins: Bins) -> dict[str, tuple[FloatArray, str]]:
    """Milliseconds a token by part; what is in no layer is the rest."""
    parts = {name: 1e3 * bins.per_token(name) for name, _ in PARTS if name != "rest"}
    tokens_B = bins.sums["tokens"]
    whole = 1e3 * np.divide(bins.took_s, tokens_B, out=np.zeros(len(tokens_B)), where=tokens_B > 0)
    parts["rest"] = np.maximum(whole - sum(parts.values()), 0.0)
    return {name: (parts[name], colour) for name, colour in PARTS if parts[name].max(initial=0.0) > 1e-6}


def _mean_parts(bins: Bins) -> dict[str, float]:
    weights = bins.sums["tokens"]
    return {k: float(np.average(v, weights=weights)) for k, (v, _) in _parts(bins).items() if weights.sum() > 0}


def _busy(bins: Bins) -> dict[str, FloatArray]:
    names = {"GPU": "gpu_busy_s", "CPU": "cpu_busy_s", "link": "link_busy_s"}
    return {lane: bins.over(name, bins.took_s) for lane, name in names.items() if bins.sums[name].any()}


def _of(bins: Bins, name: str, whole: str) -> float:
    return float(bins.sums[name].sum() / max(bins.sums[whole].sum(), 1.0))


def _mean_speed(bins: Bins) -> float:
    return float(bins.sums["tokens"].sum() / max(bins.took_s.sum(), 1e-12))


def _draw_speed(bins: Bins, spans: Sequence[Any], marks: Sequence[float]) -> Any:
    figure, axes = panel()
    _shade(axes, spans)
    for at_s in marks:
        axes.axvline(at_s, color=PURPLE, lw=0.8, zorder=1)
    axes.axhline(_mean_speed(bins), color=SOFT, lw=1, ls="--")
    stairs(axes, bins.edges_s, bins.tokens_per_s, BLUE)
    return _finished(figure, axes, bins, "tokens/s", None)


def _draw_lanes(bins: Bins, spans: Sequence[Any]) -> Any:
    figure, axes = panel()
    _shade(axes, spans)
    for lane, busy_B in _busy(bins).items():
        stairs(axes, bins.edges_s, 100 * busy_B, *LANES[lane], label=lane)
    legend(axes)
    return _finished(figure, axes, bins, "% of the time", None)


def _draw_bands(
    bins: Bins, heights: dict[str, tuple[FloatArray, str]], spans: Sequence[Any], what: str, most: float | None
) -> Any:
    figure, axes = panel()
    _shade(axes, spans)
    layers_of(axes, bins.edges_s, [(NAMES[name], height_B, colour) for name, (height_B, colour) in heights.items()])
    legend(axes)
    return _finished(figure, axes, bins, what, most)


def _shade(axes: Any, spans: Sequence[Any]) -> None:
    for begin_s, end_s in spans:
        axes.axvspan(begin_s, end_s, color=GRID, alpha=0.7, lw=0, zorder=0)


def _finished(figure: Any, axes: Any, bins: Bins, what: str, most: float | None) -> Any:
    end_s = float(bins.edges_s[-1, 1])
    axes.set(xlabel="seconds of the run", ylabel=what, ylim=(0, most), xlim=(0, end_s if end_s > 0 else None))
    return figure
