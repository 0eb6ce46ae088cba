"""The engine's own time for a terminal: steps predicted and executed, overhead, and where it goes."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from hetsched.report.compare_view import bar
from hetsched.report.tables import Column, Page, Sheet, figures, notes

MICRO = 1e6


def overhead_view(document: dict[str, Any]) -> RenderableType:
    """The whole report of `hetsched bench --engine-overhead`."""
    rows, facts = document["rows"], document["machine"]
    load = "" if facts["load"] is None else f", load {facts['load']:.1f}"
    host = f"{facts['processor']}, {facts['cores']} cores{load}, torch {facts['torch']}, seed {document['seed']}"
    parts: list[RenderableType] = [_steps(rows, document["targets"]), "", _own(rows, document["targets"])]
    for row in rows:
        parts += ["", _breakdown(row, document["meaning"])]
    remarks = [f"{name(row)}: {row['note']}" for row in rows if row["note"]]
    remarks.append("seconds of steps are emulated; the engine's own are this host's, waits and decisions taken off")
    remarks.append(
        "host last: layers that ended when prefetches had been chosen, after all lanes; no plan predicts that"
    )
    remarks.append("processor: of the thread, without what others on this host do to it")
    remarks.append(
        "warm: processor time of the same calls alone, without the dense part and without sleeping in between"
    )
    remarks.append("host: what emulated time counts: processor time without what only emulation needs")
    for row in rows:
        cold, warm = MICRO * row["ids_to_launch_s"], MICRO * row["ids_to_launch_warm_s"]
        target = MICRO * document["targets"]["ids_to_launch_s"]
        remarks.append(
            f"{name(row)}: from a layer's ids on the host to its last launch, decision included: {cold:.0f} µs, "
            f"of the same calls alone {warm:.0f} (processor time; target {target:.0f})"
        )
        if row["c_function_s"] is not None:
            step, ahead = (MICRO * row[key] for key in ("c_function_s", "c_function_ahead_s"))
            said = f"{step:.0f} µs, and {ahead:.0f} beside the lanes (processor time, alone)"
            remarks.append(f"{name(row)}: as C functions of a stream, from ids to slots and lanes: {said}")
        where = ", ".join(f"{part.removesuffix('_s')} {MICRO * s:.0f}" for part, s in row["parts"].items())
        remarks.append(f"{name(row)}: µs a layer: {where}")
    return Page(*parts, "", *notes([*remarks, host]))


def replay_view(document: dict[str, Any]) -> RenderableType:
    """The whole report of `hetsched bench --replay-speed`."""
    headings = ("layers", "experts", "top-k", "layer-steps/s", "slowest", "fastest")
    table = Sheet(Column("", prose=True), "", *figures(*headings, drop=("fastest", "slowest", "top-k")))
    for row in document["rows"]:
        shape = [str(row[key]) for key in ("layers", "experts", "top_k")]
        spread = [f"{share:.2f}" for share in row["spread"]]
        label = row["strategy"] if row["compiled"] else f"{row['strategy']} (in Python)"
        table.add(row["model"], label, *shape, f"{row['layer_steps_per_s']:,.0f}", *spread)
    facts = document["machine"]
    remarks = [*document["meaning"].values(), f"{facts['processor']}, {facts['cores']} cores, seed {document['seed']}"]
    return Page(table, "", *notes(remarks))


def name(row: dict[str, Any]) -> str:
    """Model, whose seconds it takes, and machine."""
    timed = f" as {row['timed_as']}" if row["timed_as"] else ""
    return f"{row['model']}{timed}, {row['hardware']}"


def _steps(rows: list[dict[str, Any]], targets: dict[str, float]) -> Sheet:
    headings = ("predicted", "executed", "error", "error p95", "experts", "experts p95", "host last")
    columns = figures(*headings, drop=("experts p95", "experts", "host last", "error p95"))
    table = Sheet(Column("", prose=True), *columns, title="A decode step, predicted and executed (emulated)")
    for row in rows:
        cells = [f"{1e3 * row[key]:.3f} ms" for key in ("predicted_step_s", "executed_step_s")]
        errors = [_against(row["error"], targets["error"]), _against(row["error_p95"], targets["error_p95"])]
        alone = [f"{row['experts_error']:.2%}", f"{row['experts_error_p95']:.2%}"]
        table.add(name(row), *cells, *errors, *alone, f"{row['host_last_share']:.0%}")
    return table


def _own(rows: list[dict[str, Any]], targets: dict[str, float]) -> Sheet:
    target_s = targets["layer_overhead_s"]
    title = f"The engine's own time, µs a layer (target {MICRO * target_s:.0f})"
    headings = ("active", "median", "p95", "processor", "warm", "host", "deciding", "beside")
    table = Sheet(Column("", prose=True), *figures(*headings, drop=("beside", "deciding", "active")), title=title)
    for row in rows:
        own_s = row["layer_overhead_s"]
        colour = "green" if own_s <= target_s else "yellow"
        others = (
            "layer_overhead_p95_s",
            "layer_overhead_cpu_s",
            "layer_overhead_warm_cpu_s",
            "host_layer_s",
            "decision_s",
            "overlapped_s",
        )
        median = Text(f"{MICRO * own_s:.0f}", style=colour)
        table.add(name(row), f"{row['active_experts']:.0f}", median, *(f"{MICRO * row[key]:.0f}" for key in others))
    return table


def _breakdown(row: dict[str, Any], meaning: dict[str, str]) -> Sheet:
    title = f"{name(row)}: where it goes, µs of processor time a layer"
    table = Sheet("", Column("µs", right=True), "", Column("", prose=True), title=title)
    parts = row["breakdown_s"]
    total_s = sum(parts.values()) or 1.0
    for label, s in sorted(parts.items(), key=lambda item: -item[1]):
        table.add(label, f"{MICRO * s:.0f}", bar(max(0.0, s / total_s), 10), Text(meaning[label], style="dim"))
    for label, s in row["emulation_s"].items():
        table.add(label, f"{MICRO * s:.0f}", "", Text("only because the machine is emulated", style="dim"))
    return table


def _against(error: float, target: float) -> Text:
    return Text(f"{error:.2%}", style="green" if error <= target else "yellow")


def log_cost_view(document: dict[str, Any]) -> RenderableType:
    """The whole report of `hetsched bench --log-cost`."""
    without_us, with_us = (1e6 * document["engine_s"][key] for key in ("without", "with"))
    title = f"{document['model']} on {document['hardware']} (emulated): a run log's cost"
    table = Sheet(Column("µs a layer"), *figures("without", "with", "added"), title=title)
    table.add("engine", f"{without_us:.0f}", f"{with_us:.0f}", f"{1e6 * document['added_s']:.1f}")
    share = f"added: {document['added_share']:.1%} of a layer's emulated {1e6 * document['layer_s']:.0f} µs"
    made_us, size = 1e6 * document["lines_s"], document["bytes_a_layer"]
    lines = f"between requests: {made_us:.0f} µs and {size:.0f} bytes of lines a layer"
    return Page(table, "", *notes([share, lines]))
