"""Pictures of an evaluation: measures with intervals beside each other, or the panels of the caching study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetsched.report.evaluate_view import NONE
from hetsched.report.figures import check_format, save_figure

if TYPE_CHECKING:
    from hetsched.evaluate.result import Evaluation, Row

MIB = 2**20
PANELS = {
    "recall": ("recall of the guesses, %", 100.0),
    "hit_rate": ("hit rate, %", 100.0),
    "bytes_per_token": ("moved, MiB a token", 1 / MIB),
    "tokens_per_s": ("tokens/s, simulated", 1.0),
}
COLOURS = {"lru": "#1b6ca8", "lfu": "#c0562b"}
SPECULATING, PLAIN = "-", "--"


def plot_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Draw it into one file. Raises InputError for a format that is not drawn or an unwritable place."""
    check_format(path)
    save_figure(draw_study(evaluation) if evaluation.study else draw_rows(evaluation), path)


def draw_rows(evaluation: Evaluation) -> Any:
    """A panel a measure, a line of the picture a forecaster with its strategy, a mark a share of the experts."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    rows = evaluation.rows
    fractions = list(dict.fromkeys(row.gpu_fraction for row in rows))
    places = {_name(row): 0.0 for row in rows}
    places = {name: -float(i) for i, name in enumerate(places)}
    shown = {name: how for name, how in PANELS.items() if any(getattr(row, name) is not None for row in rows)}
    figure = Figure(figsize=(3.1 * len(shown) + 2.4, 1.6 + 0.42 * len(places)), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (measure, (label, scale)) in zip(panels, shown.items(), strict=True):
        for i, fraction in enumerate(fractions):
            part = [row for row in rows if row.gpu_fraction == fraction and getattr(row, measure) is not None]
            at = [places[_name(row)] - 0.6 * (i + 0.5) / len(fractions) + 0.3 for row in part]
            colour = colormaps["viridis"](0.85 * i / max(len(fractions) - 1, 1))
            x = [scale * getattr(row, measure) for row in part]
            spans = [_span(row, measure, scale) for row in part]
            bars = {"fmt": "o", "ms": 5, "capsize": 2.5, "lw": 1.2, "color": colour}
            axes.errorbar(
                x, at, xerr=list(zip(*spans, strict=True)) or None, label=f"{fraction:.0%} of experts", **bars
            )
        most = 100.0 if scale == 100 else axes.get_xlim()[1]
        axes.set(xlabel=label, xlim=(-0.03 * most, 1.04 * most))
        axes.set_yticks(list(places.values()), list(places))
        axes.set_ylim(0.6 - len(places), 0.6)
        axes.grid(alpha=0.3)
    if len(fractions) > 1:
        handles, names = panels[-1].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)
    figure.suptitle(_title(evaluation))
    return figure


def draw_study(evaluation: Evaluation) -> Any:
    """Six panels: hit rates of shared caches and of caches per layer, bytes, speculation, use of experts, repeats."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8), layout="constrained")
    panels = figure.subplots(2, 3)
    _draw_caches(panels[0, 0], evaluation, "", "hit_rate", "One cache for all layers")
    _draw_caches(panels[0, 1], evaluation, "-per-layer", "hit_rate", "A cache for each layer")
    _draw_caches(panels[0, 2], evaluation, "", "bytes_per_token", "What that moves, one cache for all layers")
    _draw_recall(panels[1, 0], evaluation)
    _draw_use(panels[1, 1], evaluation.study["imbalance"])
    _draw_repeats(panels[1, 2], evaluation.study["locality"])
    figure.suptitle(_title(evaluation))
    return figure


def _draw_caches(axes: Any, evaluation: Evaluation, suffix: str, measure: str, title: str) -> None:
    label, scale = PANELS[measure]
    speculators = list(dict.fromkeys(row.forecaster for row in evaluation.rows if row.forecaster))
    for forecaster in [None, *speculators]:
        for rule, colour in COLOURS.items():
            rows = [r for r in evaluation.rows if (r.forecaster, r.strategy) == (forecaster, rule + suffix)]
            x, y = [100 * r.gpu_fraction for r in rows], [scale * (getattr(r, measure) or 0.0) for r in rows]
            name = f"{rule.upper()}, {f'guessed by {forecaster}' if forecaster else 'no speculation'}"
            mark = "o" if forecaster is None else "sD^vP*X"[speculators.index(forecaster) % 7]
            style = PLAIN if forecaster is None else SPECULATING
            axes.plot(x, y, style, marker=mark, ms=4, lw=1.4, color=colour, label=name)
            if measure == "hit_rate" and all(r.ci95.get(measure) for r in rows):
                low, high = zip(*(r.ci95[measure] or (0.0, 0.0) for r in rows), strict=True)
                axes.fill_between(x, [scale * v for v in low], [scale * v for v in high], color=colour, alpha=0.12)
    axes.set(xlabel="capacity, % of the experts", ylabel=label, ylim=(0, 102 if scale == 100 else None), title=title)
    _finish(axes)


def _draw_recall(axes: Any, evaluation: Evaluation) -> None:
    for i, (name, recall_L) in enumerate(evaluation.study["speculation_recall_by_layer"].items()):
        row = next(row for row in evaluation.rows if row.forecaster == name)
        whole = f"{name}: precision {row.precision or 0:.0%}, recall {row.recall or 0:.0%}"
        percent_L = [None if share is None else 100 * share for share in recall_L]
        axes.plot(percent_L, marker="sD^vP*X"[i % 7], ms=4, color=f"C{i}", label=whole)
    axes.set(xlabel="MoE layer", ylabel="recall, %", ylim=(0, 102), title="Speculation, as many guesses as top-k")
    _finish(axes)


def _draw_use(axes: Any, uneven: dict[str, Any]) -> None:
    share_E, experts = uneven["share_by_rank"], len(uneven["share_by_rank"])
    axes.bar(range(1, experts + 1), [100 * share for share in share_E], color=COLOURS["lru"], width=0.85)
    axes.axhline(100 / experts, color="0.45", ls="--", label="if all were used alike")
    mean_gini = sum(uneven["gini"]) / len(uneven["gini"])
    axes.set(xlabel="expert of a layer, most used first", ylabel="share of choices, % (mean of layers)")
    axes.set_title(f"Imbalance: Gini {mean_gini:.2f} in the mean")
    _finish(axes)


def _draw_repeats(axes: Any, local: dict[str, Any]) -> None:
    axes.plot(local["repeat"], "o-", ms=3.5, color=COLOURS["lru"], label="P(chosen by the next token | chosen by this)")
    axes.plot(local["repeat_if_independent"], "--", color="0.45", label="if tokens were independent")
    axes.set(xlabel="MoE layer", ylabel="probability", ylim=(0, 1), title="Locality")
    _finish(axes)


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)


def _name(row: Row) -> str:
    return f"{row.forecaster or NONE}, {row.strategy}{' (sees the future)' if row.clairvoyant else ''}"


def _span(row: Row, measure: str, scale: float) -> tuple[float, float]:
    """How far the interval reaches below and above."""
    interval, value = row.ci95.get(measure), getattr(row, measure)
    if not interval:
        return 0.0, 0.0
    return scale * max(0.0, value - interval[0]), scale * max(0.0, interval[1] - value)


def _title(evaluation: Evaluation) -> str:
    facts = evaluation.facts
    return (
        f"{facts['model']}, {evaluation.protocol} protocol, {facts['tokens_scored']:,} tokens of "
        f"{facts['sequences_scored']} held-out sequences"
    )
