"""What `hetsched demo` shows: the machine, the memory split, and the strategies."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.panel import Panel
from rich.text import Text

from hetsched.machine.sizes import show_bytes
from hetsched.report.tables import Column, Page, Sheet, figures


def hardware_view(handle: Any) -> RenderableType:
    """The emulated machine, what one layer's pieces take on it, and where the model's bytes are."""
    cost, shape, machine = handle.scheduler.cost, handle.geometry, handle.hardware
    table = Sheet("", Column("", prose=True))
    name = Text.assemble(machine.title or machine.name, " ", ("emulated", "bold yellow"), ", figures from datasheets")
    table.add("machine", name)
    table.add("model", f"{shape.num_layers} layers x {shape.num_experts} experts, {shape.top_k} active per token")
    if cost.geometry is not shape:
        table.add("", f"its layers take the time of {cost.geometry.name}'s on that machine")
    table.add(
        "one expert, 1 token",
        f"GPU {1e6 * float(cost.gpu_s(1)):.0f} µs, CPU {1e6 * float(cost.cpu_s(1)):.0f} µs, "
        f"fetch {1e6 * cost.copy_s():.0f} µs\nonce a layer: GPU {1e6 * cost.gpu_call_s():.0f} µs, "
        f"CPU {1e6 * cost.cpu_start_s(1):.0f} µs\nrest of a layer: {1e6 * cost.dense_s(1):.0f} µs",
    )
    table.add("experts", _memory_bar(handle.engine.gpu_expert_bytes, shape.all_slots_bytes))
    return Panel(table, title="hetsched", title_align="left", border_style="cyan", expand=False)


def _memory_bar(gpu_bytes: int, total_bytes: int, width: int = 32) -> Text:
    on_gpu = round(width * gpu_bytes / total_bytes)
    bar = Text("█" * on_gpu, style="green") + Text("░" * (width - on_gpu), style="blue")
    bar.append(f"  {show_bytes(gpu_bytes)} on the GPU, all {show_bytes(total_bytes)} in host memory", style="default")
    return bar


def strategy_table(rows: list[dict[str, Any]]) -> Page:
    """One row a strategy, the fastest in bold."""
    columns = figures("tokens/s", "hits", "moved/token", "stall/token", "decide/layer", drop=("decide/layer", "hits"))
    table = Sheet("strategy", *columns, title="Same text, same bytes, five strategies (emulated)")
    best = max(row["tokens_per_s"] for row in rows)
    for row in rows:
        table.add(
            row["policy"],
            f"{row['tokens_per_s']:.1f}",
            f"{row['hit_rate']:.0%}",
            show_bytes(row["bytes_per_token"]),
            f"{1e3 * row['stall_s_per_token']:.2f} ms",
            f"{1e6 * row['decision_s'] / row['layers']:.0f} µs",
            style="bold green" if row["tokens_per_s"] == best else "",
        )
    return Page(table)


def notes(row: dict[str, Any]) -> RenderableType:
    """What was real and what was not."""
    return Text(
        "Real: the model, its routing, every token (bit-identical to unscheduled), the decisions and their time. "
        f"Emulated: the lanes' times, those of {row['timed_as']} on {row['hardware']} by datasheet. "
        "Frequencies for static-frequency and hetsched's start come from another text.",
        style="dim",
    )
