"""Figures of a run over time: speed, hits, bytes, lanes, and where a token's time went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
PLACES = {
    "resident": ("there", GREEN),
    "here": ("there, run by CPU", PURPLE),
    "under_way": ("on its way", SKY),
    "fetched": ("fetched", RED),
    "cpu": ("CPU", BLUE),
}
PARTS = {
    "dense_s": ("dense part", SOFT),
    "host_s": ("engine", PURPLE),
    "decide_s": ("deciding", ORANGE),
    "experts_s": ("experts", BLUE),
}
REST = ("other", GRID)
COPIES = {"demand_copies": ("asked for", RED), "ahead_copies": ("ahead", SKY)}
BUSY = {"GPU": "gpu_busy_s", "CPU": "cpu_busy_s", "link": "link_busy_s"}
Bands = list[tuple[str, FloatArray, str]]  # name, height of each bin, colour


def over_time(log: RunLog, steps: Steps) -> list[Figure]:
    """Figures over the run's seconds, of decoding; of prefill where nothing was decoded."""
    prefill = not steps.has_decode
    spans = [] if prefill else [(float(begin_s), float(end_s)) for begin_s, end_s in steps.bins(True).edges_s]
    marks = [event.at_s for event in log.events[:MOST_EVENTS] if isinstance(event.at_s, int | float)]
    run = _Run(log, steps.bins(prefill), "prefill" if prefill else "decoding", spans, marks)
    made = [run.speed(), run.hits(), run.bytes(), run.lanes(), run.time()]
    return [figure for figure in made if figure]


@dataclass(frozen=True)
class _Run:
    """What all figures share: bins of the phase drawn, spans of prefill beside it, and when events were."""

    log: RunLog
    bins: Bins
    phase: str
    spans: Sequence[tuple[float, float]]
    marks: Sequence[float]

    def figure(self, key: str, title: str, caption: str, alt: str, draw: Callable[[Any], None], what: str) -> Figure:
        seen = f"Of {self.phase}; {self.bins.steps_text}." + (" Grey: prefill." if self.spans else "")
        return Figure(key, title, self.log.header.clock, f"{seen} {caption}", alt, partial(self.drawn, draw, what))

    def drawn(self, draw: Callable[[Any], None], what: str) -> Any:
        figure, axes = panel()
        for begin_s, end_s in self.spans:
            axes.axvspan(begin_s, end_s, color=GRID, alpha=0.7, lw=0, zorder=0)
        draw(axes)
        end_s = float(self.bins.edges_s[-1, 1])
        axes.set(xlabel="seconds of the run", ylabel=what, ylim=(0, None), xlim=(0, end_s if end_s > 0 else None))
        legend(axes)
        return figure

    def speed(self) -> Figure:
        speed_B, mean = self.bins.tokens_per_s, self.mean("tokens", float(self.bins.took_s.sum()))
        caption = "Dashed: the mean." + (" Upright lines: events, listed below." if self.marks else "")
        alt = f"Tokens per second of {self.phase}: {speed_B.min():.1f} to {speed_B.max():.1f}, {mean:.1f} on average."

        def draw(axes: Any) -> None:
            for at_s in self.marks:
                axes.axvline(at_s, color=PURPLE, lw=0.8, zorder=1)
            axes.axhline(mean, color=SOFT, lw=1, ls="--")
            stairs(axes, self.bins.edges_s, speed_B, BLUE)

        return self.figure("speed", "Tokens per second", caption, alt, draw, "tokens/s")

    def hits(self) -> Figure | None:
        active_B = self.bins.sums["active"]
        if not active_B.any():
            return None
        shares = {k: (100 * self.bins.over(k, active_B), *PLACES[k]) for k in PLACES if self.bins.sums[k].any()}
        caption = "Active experts that lay on the GPU, whole, when asked for, and what became of the others."
        means = [f"{name} {self.mean(k, float(active_B.sum())):.0%}" for k, (_, name, _) in shares.items()]
        alt = f"Hit rate {self.mean('hits', float(active_B.sum())):.0%}. Where active experts were: {', '.join(means)}."
        bands: Bands = [(name, share_B, colour) for share_B, name, colour in shares.values()]
        return self.figure("hits", "Hit rate", caption, alt, partial(self.stack, bands), "% of active experts")

    def bytes(self) -> Figure | None:
        each, sums = float(self.log.header.model["expert_bytes"]) / MIB, self.bins.sums
        if not any(sums[k].any() for k in COPIES):
            return None
        bands: Bands = [(name, each * self.bins.per_token(k), colour) for k, (name, colour) in COPIES.items()]
        tokens = float(sums["tokens"].sum())
        demand, ahead = (each * self.mean(k, tokens) for k in COPIES)
        caption = "Copies of experts into GPU memory by when they were begun: as they were asked for, or ahead of that."
        alt = f"MiB copied to the GPU a token: {demand:.1f} asked for and {ahead:.1f} ahead, on average."
        return self.figure("bytes", "Bytes over the link", caption, alt, partial(self.stack, bands), "MiB a token")

    def lanes(self) -> Figure:
        bins, took_s = self.bins, float(self.bins.took_s.sum())
        busy = {lane: bins.over(k, bins.took_s) for lane, k in BUSY.items() if bins.sums[k].any()}
        means = [f"{lane} {self.mean(BUSY[lane], took_s):.0%}" for lane in busy]
        caption = "Seconds that a lane was busy over all seconds; lanes overlap."

        def draw(axes: Any) -> None:
            for lane, busy_B in busy.items():
                stairs(axes, bins.edges_s, 100 * busy_B, *LANES[lane], label=lane)

        alt = f"Utilisation of lanes on average: {', '.join(means) or 'none was busy'}."
        return self.figure("lanes", "Lanes' utilisation", caption, alt, draw, "% of the time")

    def time(self) -> Figure:
        bins, tokens_B = self.bins, self.bins.sums["tokens"]
        whole_B = 1e3 * np.divide(bins.took_s, tokens_B, out=np.zeros(len(tokens_B)), where=tokens_B > 0)
        bands: Bands = [(name, 1e3 * bins.per_token(k), colour) for k, (name, colour) in PARTS.items()]
        rest_B = np.maximum(whole_B - sum(height_B for _, height_B, _ in bands), 0.0)
        bands = [part for part in [*bands, (REST[0], rest_B, REST[1])] if part[1].max() > 1e-6]
        weights = np.maximum(tokens_B, 1e-12)
        means = [f"{name} {np.average(part_B, weights=weights):.2f}" for name, part_B, _ in bands]
        caption = (
            "Experts: from the decision to the end of the last lane. Other: what lies between layers, as the head."
        )
        alt = f"Milliseconds a token on average: {', '.join(means)}."
        return self.figure("time", "Where a token's time went", caption, alt, partial(self.stack, bands), "ms a token")

    def stack(self, bands: Bands, axes: Any) -> None:
        layers_of(axes, self.bins.edges_s, bands)
        axes.margins(y=0.01)

    def mean(self, name: str, whole: float) -> float:
        return float(self.bins.sums[name].sum()) / whole if whole > 0 else 0.0
