"""An evaluation as tables for a terminal: one for each share of the experts, and those of the caching study."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from hetsched.report.tables import Column, Page, Sheet, figures, notes

if TYPE_CHECKING:
    from hetsched.evaluate.result import Evaluation, Row

NONE = "none"
HITS, MOVED = "Hit rate by share of the experts that fit", "Moved, MiB a token"
FIGURES = ("precision", "recall", "F1", "macro F1", "accuracy", "cal. error", "hits", "moved", "wasted", "tokens/s")
DROPPED = ("wasted", "accuracy", "macro F1", "cal. error", "F1", "moved", "precision")  # if narrow, in order
UNITS = "moved and wasted in MiB a token; ± is half of a 95 % interval over sequences"
SHARES = ("precision", "recall", "f1_positive", "f1_macro", "accuracy", "calibration_error", "hit_rate")


def evaluate_view(evaluation: Evaluation) -> RenderableType:
    """What was evaluated, the rows, and notes."""
    facts = evaluation.facts
    tables = _hit_tables(evaluation) if evaluation.study else _row_tables(evaluation)
    stand_ins = {row.forecaster: row.stand_in for row in evaluation.rows if row.stand_in and row.forecaster}
    remarks = [UNITS, *(f"{name}: {text}" for name, text in stand_ins.items()), *facts["notes"]]
    return Page(headline(evaluation), "", *tables, *notes(remarks))


def headline(evaluation: Evaluation) -> str:
    """One line on what was evaluated."""
    facts = evaluation.facts
    return (
        f"{evaluation.protocol} protocol: {facts['model']}, {facts['tokens_scored']:,} tokens of "
        f"{facts['sequences_scored']} sequences scored, {facts['sequences_fitted']} other sequences fitted on"
    )


def _row_tables(evaluation: Evaluation) -> Iterator[RenderableType]:
    shown = FIGURES if any(row.tokens_per_s is not None for row in evaluation.rows) else FIGURES[:-1]
    for fraction, rows in groupby(evaluation.rows, key=lambda row: row.gpu_fraction):
        right = [Column(h, True, DROPPED.index(h) + 1 if h in DROPPED else 0) for h in shown]
        hardware = f" of {rows_[0].hardware}" if (rows_ := list(rows))[0].hardware else ""
        sheet = Sheet("forecaster", "strategy", *right, title=f"{fraction:.0%} of the experts on the GPU{hardware}")
        for row in rows_:
            name = f"{row.forecaster or NONE}{' (sees the future)' if row.clairvoyant else ''}"
            sheet.add(name, row.strategy, *_cells(row)[: len(shown)], style="dim" if row.clairvoyant else "")
        yield from (sheet, "")


def _cells(row: Row) -> list[str]:
    shares = [_share(row, name, name in ("recall", "hit_rate")) for name in SHARES]
    speed = "" if row.tokens_per_s is None else f"{row.tokens_per_s:.1f}{_half(row, 'tokens_per_s', 1, '.1f')}"
    return [*shares, mib(row.bytes_per_token), mib(row.wasted_bytes_per_token), speed]


def _share(row: Row, name: str, with_interval: bool) -> str:
    value = getattr(row, name)
    if value is None:
        return ""
    return f"{100 * value:.1f}%" + (_half(row, name, 100, ".1f") if with_interval else "")


def _half(row: Row, name: str, scale: float, form: str) -> str:
    interval = row.ci95.get(name)
    return f" ±{scale * (interval[1] - interval[0]) / 2:{form}}" if interval else ""


def mib(count: float | None) -> str:
    """Bytes in MiB, nothing for None."""
    return "" if count is None else f"{count / 2**20:.0f}"


def _hit_tables(evaluation: Evaluation) -> Iterator[RenderableType]:
    """Caches as lines, shares of the experts as columns: hits, and what was moved; then the tables by layer."""
    yield from (_by_capacity(evaluation, HITS, lambda row: _share(row, "hit_rate", False)), "")
    yield from (_by_capacity(evaluation, MOVED, lambda row: mib(row.bytes_per_token)), "")
    tables: list[RenderableType] = [_speculation(evaluation), "", _by_layer(evaluation.study), ""]
    yield from [*tables, *_reuse(evaluation.study), ""]


def _by_capacity(evaluation: Evaluation, title: str, cell: Callable[[Row], str]) -> Sheet:
    fractions = dict.fromkeys(f"{row.gpu_fraction:.0%}" for row in evaluation.rows)
    sheet = Sheet("cache", "speculation", *figures(*fractions), title=title)
    for (forecaster, strategy), rows in groupby(evaluation.rows, key=lambda row: (row.forecaster, row.strategy)):
        sheet.add(strategy, forecaster or NONE, *[cell(row) for row in rows])
    return sheet


def _speculation(evaluation: Evaluation) -> Sheet:
    columns = figures("precision", "recall", "F1", "macro F1", "accuracy", "cal. error")
    sheet = Sheet("speculation", *columns, title="How right the speculation is")
    first = {row.forecaster: row for row in reversed(evaluation.rows) if row.forecaster}
    for name, row in first.items():
        sheet.add(name, *[_share(row, measure, measure == "recall") for measure in SHARES[:-1]])
    return sheet


def _by_layer(study: dict[str, Any]) -> Sheet:
    uneven, local = study["imbalance"], study["locality"]
    recalls = study["speculation_recall_by_layer"]
    most = f"on most used {uneven['most_used_experts']}"
    headings = ("layer", most, "on top 1", "entropy, bits", "Gini", "P(repeat)", "if independent")
    names = [f"recall, {name}" for name in recalls]
    drop = ("if independent", "on top 1", "entropy, bits")
    sheet = Sheet(*figures(*headings, *names, drop=drop), title="Imbalance and locality by layer")
    columns = [uneven["most_used_share"], uneven["top_expert_share"], uneven["entropy_bits"], uneven["gini"]]
    columns += [local["repeat"], local["repeat_if_independent"], *recalls.values()]
    forms = ("{:.1%}", "{:.1%}", "{:.2f}", "{:.2f}", "{:.3f}", "{:.3f}", *["{:.1%}"] * len(recalls))
    for layer, values in enumerate(zip(*columns, strict=True)):
        cells = ["" if v is None else form.format(v) for form, v in zip(forms, values, strict=True)]
        sheet.add(str(layer), *cells)
    return sheet


def _reuse(study: dict[str, Any]) -> list[str]:
    local = study["locality"]
    quantiles = ", ".join(
        f"{float(q):.0%} {'first use' if n is None else n}" for q, n in local["reuse_distance_experts"].items()
    )
    most_bits = study["imbalance"]["max_entropy_bits"]
    return [
        f"Reuse distance, in experts of all layers asked for in between, quantiles: {quantiles}",
        f"First uses: {local['first_use_share']:.2%} of requests; entropy is at most {most_bits:.2f} bits",
    ]
