"""The engine's own time for a terminal: steps predicted and executed, overhead, and where it goes."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hetsched.report.compare_view import bar
from hetsched.report.profile_view import PLAIN

MICRO = 1e6


def overhead_view(document: dict[str, Any]) -> RenderableType:
    """The whole report of `hetsched bench --overhead`."""
    rows, facts = document["rows"], document["machine"]
    load = "" if facts["load"] is None else f", load {facts['load']:.1f}"
    host = f"{facts['processor']}, {facts['cores']} cores{load}, torch {facts['torch']}, seed {document['seed']}"
    parts: list[RenderableType] = [_steps(rows, document["targets"]), Text(), _own(rows, document["targets"])]
    for row in rows:
        parts += [Text(), _breakdown(row, document["meaning"])]
    notes = [f"{name(row)}: {row['note']}" for row in rows if row["note"]]
    notes.append("seconds of steps are emulated; the engine's own are this host's, waits and decisions taken off")
    notes.append("host last: layers that ended when prefetches had been chosen, after all lanes; no plan predicts that")
    notes.append("processor: of the thread, without what others on this host do to it")
    notes.append("warm: processor time of the same calls alone, without the dense part and without sleeping in between")
    return Group(*parts, Text(), *(Text(f"· {note}", style="dim") for note in dict.fromkeys([*notes, host])))


def name(row: dict[str, Any]) -> str:
    """Model, whose seconds it takes, and machine."""
    timed = f" as {row['timed_as']}" if row["timed_as"] else ""
    return f"{row['model']}{timed}, {row['hardware']}"


def _steps(rows: list[dict[str, Any]], targets: dict[str, float]) -> Table:
    table = Table(title="A decode step, predicted and executed (emulated)", title_justify="left", **PLAIN)
    for heading in ("", "predicted", "executed", "error", "p95", "experts", "p95", "host last"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading))
    for row in rows:
        cells = [f"{1e3 * row[key]:.3f} ms" for key in ("predicted_step_s", "executed_step_s")]
        errors = [_against(row["error"], targets["error"]), _against(row["error_p95"], targets["error_p95"])]
        alone = [f"{row['experts_error']:.2%}", f"{row['experts_error_p95']:.2%}"]
        table.add_row(name(row), *cells, *errors, *alone, f"{row['host_last_share']:.0%}")
    return table


def _own(rows: list[dict[str, Any]], targets: dict[str, float]) -> Table:
    target_s = targets["layer_overhead_s"]
    title = f"The engine's own time, µs a layer (target {MICRO * target_s:.0f})"
    table = Table(title=title, title_justify="left", **PLAIN)
    for heading in ("", "active", "median", "p95", "processor", "warm", "deciding", "beside"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading))
    for row in rows:
        own_s = row["layer_overhead_s"]
        colour = "green" if own_s <= target_s else "yellow"
        others = (
            "layer_overhead_p95_s",
            "layer_overhead_cpu_s",
            "layer_overhead_warm_cpu_s",
            "decision_s",
            "overlapped_s",
        )
        median = f"[{colour}]{MICRO * own_s:.0f}[/]"
        table.add_row(name(row), f"{row['active_experts']:.0f}", median, *(f"{MICRO * row[key]:.0f}" for key in others))
    return table


def _breakdown(row: dict[str, Any], meaning: dict[str, str]) -> Table:
    table = Table(title=f"{name(row)}: where it goes, µs of processor time a layer", title_justify="left", **PLAIN)
    for heading, justify in (("", "left"), ("µs", "right"), ("", "left"), ("", "left")):
        table.add_column(heading, justify=justify, no_wrap=heading == "µs")  # type: ignore[arg-type]
    parts = row["breakdown_s"]
    total_s = sum(parts.values()) or 1.0
    for label, s in sorted(parts.items(), key=lambda item: -item[1]):
        table.add_row(label, f"{MICRO * s:.0f}", bar(max(0.0, s / total_s), 10), Text(meaning[label], style="dim"))
    for label, s in row["emulation_s"].items():
        table.add_row(label, f"{MICRO * s:.0f}", "", Text("only because the machine is emulated", style="dim"))
    return table


def _against(error: float, target: float) -> str:
    return f"[{'green' if error <= target else 'yellow'}]{error:.2%}[/]"
