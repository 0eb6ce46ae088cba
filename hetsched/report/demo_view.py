"""What `hetsched demo` shows: the machine, the memory split, and the strategies."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hetsched.sizes import show_bytes


def hardware_view(handle: Any) -> RenderableType:
    """The emulated machine, what one layer's pieces take on it, and where the model's bytes are."""
    cost, shape, machine = handle.scheduler.cost, handle.geometry, handle.hardware
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("machine", f"{machine.title or machine.name} [bold yellow]emulated[/], figures from datasheets")
    table.add_row("model", f"{shape.num_layers} layers x {shape.num_experts} experts, {shape.top_k} active per token")
    if cost.geometry is not shape:
        table.add_row("", f"its layers take the time of {cost.geometry.name}'s on that machine")
    table.add_row(
        "one expert, 1 token",
        f"GPU {1e6 * float(cost.gpu_s(1)):.0f} µs, CPU {1e6 * float(cost.cpu_s(1)):.0f} µs, "
        f"fetch {1e6 * cost.copy_s():.0f} µs; rest of a layer {1e6 * cost.dense_s(1):.0f} µs",
    )
    table.add_row("experts", _memory_bar(handle.engine.gpu_expert_bytes, shape.total_expert_bytes))
    return Panel(table, title="hetsched", title_align="left", border_style="cyan")


def _memory_bar(gpu_bytes: int, total_bytes: int, width: int = 32) -> Text:
    on_gpu = round(width * gpu_bytes / total_bytes)
    bar = Text("█" * on_gpu, style="green") + Text("█" * (width - on_gpu), style="blue")
    bar.append(f"  {show_bytes(gpu_bytes)} on the GPU, all {show_bytes(total_bytes)} in host memory", style="default")
    return bar


def strategy_table(rows: list[dict[str, Any]]) -> Table:
    """One row a strategy, the fastest in bold."""
    table = Table(title="Same text, same bytes, five strategies (emulated)", title_justify="left")
    table.add_column("strategy", no_wrap=True)
    for column in ("tokens/s", "hits", "moved/token", "stall/token", "decide/layer"):
        table.add_column(column, justify="right")
    best = max(row["tokens_per_s"] for row in rows)
    for row in rows:
        table.add_row(
            row["policy"],
            f"{row['tokens_per_s']:.1f}",
            f"{row['hit_rate']:.0%}",
            show_bytes(row["bytes_per_token"]),
            f"{1e3 * row['stall_s_per_token']:.2f} ms",
            f"{1e6 * row['decision_s'] / row['layers']:.0f} µs",
            style="bold green" if row["tokens_per_s"] == best else None,
        )
    return table


def notes(row: dict[str, Any]) -> RenderableType:
    """What was real and what was not."""
    return Group(
        Text(
            "Real: the model, its routing, every token (bit-identical to unscheduled), the decisions and their time. "
            f"Emulated: the lanes' times, those of {row['timed_as']} on {row['hardware']} by datasheet. "
            "Frequencies for static-frequency and hetsched's start come from another text.",
            style="dim",
        )
    )
