"""Plot of a trace's figures: use of experts, entropy, repeats, and what caches of each size would hit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hetsched.report.figures import check_format, save_figure
from hetsched.traces.summary import TraceSummary

SEEN_COLOUR, INDEPENDENT_COLOUR, LFU_COLOUR = "#1b6ca8", "0.55", "#c0562b"


def plot_trace(name: str, summary: TraceSummary, path: Path) -> None:
    """Draw four panels into a file. Raises InputError for a format that is not drawn or an unwritable place."""
    check_format(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    panels = figure.subplots(2, 2)
    _draw_use(figure, panels[0, 0], summary)
    _draw_entropy(panels[0, 1], summary)
    _draw_repeats(panels[1, 0], summary)
    _draw_hits(panels[1, 1], summary)
    sampled = f", {summary.sampled_tokens:,} of them sampled" if summary.sampled_tokens < summary.tokens else ""
    model = str(summary.meta.get("model", name)).partition(" (")[0]
    figure.suptitle(f"{model}: {summary.tokens:,} tokens{sampled}, {summary.top_k} of {summary.experts} experts")
    save_figure(figure, path)


def _draw_use(figure: Any, axes: Any, s: TraceSummary) -> None:
    share_LE = np.sort(s.counts_LE / s.sampled_tokens, axis=1)[:, ::-1]
    image = axes.imshow(share_LE, aspect="auto", cmap="viridis", interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of tokens that choose the expert")
    axes.set(xlabel="experts, most used first", ylabel="MoE layer", title="Use of experts")


def _draw_entropy(axes: Any, s: TraceSummary) -> None:
    axes.plot(s.entropy_bits_L, "o-", ms=3, color=SEEN_COLOUR, label="of expert use")
    label = f"all alike: log2 {s.experts} = {s.max_entropy_bits:.2f}"
    axes.axhline(s.max_entropy_bits, color=INDEPENDENT_COLOUR, ls="--", label=label)
    axes.set(xlabel="MoE layer", ylabel="bits", ylim=(0, None), title="Entropy")
    _finish(axes)


def _draw_repeats(axes: Any, s: TraceSummary) -> None:
    axes.plot(s.repeat_L, "o-", ms=3, color=SEEN_COLOUR, label="P(chosen at t+1 | chosen at t)")
    axes.plot(s.independent_L, "--", color=INDEPENDENT_COLOUR, label="if tokens were independent")
    axes.set(xlabel="MoE layer", ylabel="probability", ylim=(0, 1), title="Experts that the next token repeats")
    _finish(axes)


def _draw_hits(axes: Any, s: TraceSummary) -> None:
    percent = 100 * np.arange(len(s.lru_D1)) / (len(s.lru_D1) - 1)
    axes.plot(percent, 100 * s.lru_D1, color=SEEN_COLOUR, label="LRU")
    axes.plot(percent, 100 * s.lfu_D1, color=LFU_COLOUR, label="LFU")
    axes.plot([0, 100], [0, 100], "--", color=INDEPENDENT_COLOUR, label="random experts")
    axes.set(xlabel="capacity, % of all experts", ylabel="hit rate, %", xlim=(0, 100), ylim=(0, 101))
    axes.set_title("Caches shared by all layers, without prefetch")
    _finish(axes)


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
