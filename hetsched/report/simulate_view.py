"""One strategy's replay for a terminal: speed, lanes, where the time goes, hits by layer, and a few layers drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from hetsched.machine.sizes import show_bytes
from hetsched.report.compare_view import BOUNDS, bar, headline
from hetsched.report.predictions_view import predictions_table
from hetsched.report.simulate_gantt import layers_drawn
from hetsched.report.tables import Column, Page, Sheet, notes

if TYPE_CHECKING:
    from hetsched.replay.single import Report

LEVELS = "▁▂▃▄▅▆▇█"


def simulate_view(report: Report) -> RenderableType:
    """The whole report."""
    row = report.row
    true = report.facts["true_hardware"]
    machine = row.hardware if true is None else f"{true}, believed to be {row.hardware}"
    title = f"{row.strategy} on {machine}, {row.gpu_fraction:.0%} of the experts ({show_bytes(row.gpu_bytes)})"
    parts: list[RenderableType] = [Text(title, style="bold"), Text(headline(report.facts)), Text(), _figures(report)]
    parts += [Text("\nWhere the time of a token goes", style="bold"), _shares(time_of(report.stats), report.stats)]
    parts += [Text("\nLanes, busy", style="bold"), _lanes(report.stats)]
    predicted = predictions_table(report.stats["predictions"], report.stats["tokens"])
    parts += [Text("\nPredicted and measured, of a token", style="bold"), predicted]
    parts += [Text("\nHits at demand, layer by layer", style="bold"), Text(_hits(report))]
    if report.moments:
        parts += [Text("\nLayers of the step in the middle", style="bold"), *map(Text, layers_drawn(report))]
    return Page(*parts, "", *notes(report.facts["notes"]))


def time_of(stats: dict[str, Any]) -> dict[str, float]:
    """Seconds of all layers, as parts that add up; after the decision, what the GPU lane did with them."""
    experts_s = stats["gpu_s"] - stats["dense_s"]
    return {
        "rest of the layers": stats["dense_s"],
        "decisions": stats["decision_s"],
        "the engine itself": stats["host_s"],
        "experts on the GPU": experts_s,
        "GPU waits for a copy": stats["stall_s"],
        "GPU waits for the CPU lane": stats["makespan_s"] - experts_s - stats["stall_s"],
    }


def _figures(report: Report) -> Sheet:
    row, stats = report.row, report.stats
    table = Sheet("", Column("", prose=True))
    speed = f"{row.tokens_per_s:.1f} tokens/s, {1e3 * row.step_s:.2f} ms a step"
    limits = "; ".join(f"{BOUNDS.get(b.kind, b.kind)}: {1e3 * b.step_s:.2f} ms a step" for b in report.bounds)
    table.add("speed", Text(speed, style="bold"))
    if row.whole_tokens_per_s is not None and row.left_out_s_per_token is not None:
        besides = "its head, attention over the text so far and layers without experts"
        more = f"{1e3 * row.left_out_s_per_token:.2f} ms more of each for {besides}"
        table.add("whole tokens", f"{row.whole_tokens_per_s:.1f} tokens/s: {more}")
    if row.efficiency is not None:
        table.add("of the bound", f"{bar(row.efficiency)} {row.efficiency:.0%}\n{limits}")
    table.add("hits", f"{row.hit_rate:.1%} of active experts at demand, {row.late_share:.1%} on their way")
    table.add(
        "moved",
        f"{show_bytes(row.bytes_per_token)} a token, {show_bytes(row.wasted_bytes_per_token)} of it for nothing: "
        f"{stats['demanded_fetches']:,} fetches, {stats['prefetches']:,} prefetches",
    )
    per_layer = 1e6 / max(stats["layers"], 1)
    table.add(
        "deciding",
        f"{per_layer * stats['decision_s']:.0f} µs a layer before its experts run, "
        f"{per_layer * stats['overlapped_s']:.0f} µs beside them",
    )
    if foreseen := report.facts.get("forecast"):
        taken = "" if foreseen["observe_s"] is None else f", {1e6 * foreseen['observe_s']:.0f} µs a layer to learn"
        first = f"{foreseen['recall']:.1%} of the next layer's experts among the top_k likeliest"
        table.add("foresight", f"{foreseen['forecaster']}: {first}, first {foreseen['tokens']:,} tokens{taken}")
    table.add("host", f"{per_layer * stats['host_s']:.0f} µs a layer, the engine itself")
    if stats["solver_status"]:
        counts = ", ".join(f"{status.lower()} {count:,}" for status, count in sorted(stats["solver_status"].items()))
        table.add("solver", counts)
    return table


def _shares(parts: dict[str, float], stats: dict[str, Any]) -> Sheet:
    total_s, per_token = stats["total_s"] or 1.0, 1e3 / max(stats["tokens"], 1)
    table = Sheet("", Column("", drop=1), Column("", right=True), Column("", right=True))
    for name, seconds in parts.items():
        table.add(name, f"{bar(seconds / total_s, 24)}", f"{seconds / total_s:4.0%}", f"{per_token * seconds:.2f} ms")
    return table


def _lanes(stats: dict[str, Any]) -> Sheet:
    table = Sheet("", "", Column("", right=True))
    for lane, share in stats["utilisation"].items():
        table.add(lane.upper(), bar(share, 24), f"{share:4.0%}")
    return table


def _hits(report: Report) -> str:
    rates: Sequence[float] = report.hit_rate_L.tolist()
    marks = "".join(LEVELS[min(int(len(LEVELS) * rate), len(LEVELS) - 1)] for rate in rates)
    return f"{marks}\nlowest {min(rates):.0%} (layer {rates.index(min(rates))}), highest {max(rates):.0%}"
