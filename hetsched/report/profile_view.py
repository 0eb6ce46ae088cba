"""Profiles and model geometries as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from hetsched.model_yaml import ModelCard
from hetsched.profile import HardwareProfile, LatencyTable, Link, Processor
from hetsched.units import human

# No frame: names and figures must fit 80 columns.
PLAIN: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 2, 0, 0)}


def machine_table(profiles: Sequence[HardwareProfile]) -> Table:
    """One line a machine: memory and rates; the caption says how they were obtained."""
    sources = ", ".join(sorted({profile.source.value for profile in profiles}))
    table = Table(title="Machines", caption=f"source of all figures: {sources}", **PLAIN)
    for name in ("machine", "GPU memory", "GPU read", "link", "host", "host read"):
        table.add_column(name, no_wrap=True)
    for p in profiles:
        gpu = p.gpu
        table.add_row(
            p.name,
            human(gpu.capacity_bytes, "B") if gpu else "none",
            human(gpu.read_bytes_per_s, "B/s") if gpu else "",
            "unified" if p.unified_memory else _rate(p.h2d),
            human(p.cpu.capacity_bytes, "B"),
            human(p.cpu.read_bytes_per_s, "B/s"),
        )
    return table


def model_table(cards: Iterable[ModelCard], variants: bool = False) -> Table:
    """One line a model as published, or one for each dtype that it is usually run in."""
    table = Table(title="Models", **PLAIN)
    for name in ("model", "layers", "experts", "hidden x ffn", "dtype", "expert", "all"):
        table.add_column(name, no_wrap=True)
    for card in cards:
        for dtype in card.dtypes if variants else (card.geometry.dtype,):
            g = card.geometry.with_dtype(dtype)
            sizes = human(g.expert_bytes, "B"), human(g.total_expert_bytes, "B")
            counts = str(g.num_layers), f"{g.top_k} of {g.num_experts}"
            table.add_row(g.name, *counts, f"{g.hidden} x {g.ffn}", dtype, *sizes)
    return table


def profile_view(profile: HardwareProfile) -> list[RenderableType]:
    """All of one profile: figures with unit, provenance and reason, then tables, then notes."""
    title = f"{profile.name}: {profile.title} ({profile.date})"
    table = Table("figure", "value", "source", "how", title=title, **PLAIN)
    for key, value, unit in _figures(profile):
        source = profile.provenance.get(key, profile.source).value
        table.add_row(key, human(value, unit), source, profile.reasons.get(key, ""))
    parts: list[RenderableType] = [table]
    parts += [_latency(key, device.tables) for key, device in profile.processors if device.tables]
    return parts + [f"note: {note}" for note in profile.notes]


def _figures(profile: HardwareProfile) -> list[tuple[str, float, str]]:
    rows: list[tuple[str, float, str]] = []
    for key, device in reversed(profile.processors):
        rows += [(f"{key}.{name}", value, unit) for name, value, unit in _of_processor(device)]
    for key, link in (("h2d", profile.h2d), ("d2h", profile.d2h)):
        if link:
            rows += [(f"{key}.latency_s", link.latency_s, "s"), (f"{key}.bytes_per_s", link.bytes_per_s, "B/s")]
            rows += [(f"{key}.pageable_bytes_per_s", link.pageable_bytes_per_s, "B/s")]
    if profile.gpu:
        rows += [(f"contention.{name}", getattr(profile, name), "1") for name in ("cpu_slowdown", "h2d_slowdown")]
    return [*rows, ("pinnable_bytes", profile.pinnable_bytes, "B")] if profile.pinnable_bytes else rows


def _of_processor(device: Processor) -> list[tuple[str, float, str]]:
    return [
        ("capacity_bytes", device.capacity_bytes, "B"),
        ("read_bytes_per_s", device.read_bytes_per_s, "B/s"),
        ("flops_per_s", device.flops_per_s, "FLOP/s"),
        ("call_s", device.call_s, "s"),
    ]


def _latency(key: str, tables: Sequence[LatencyTable]) -> Table:
    view = Table("tokens", title=f"{key}: one expert's FFN, median (10th to 90th percentile)", **PLAIN)
    for table in tables:
        view.add_column(
            f"{table.shape}\n{table.kernel or table.source.value}{', copy busy' if table.copy_busy else ''}"
        )
    for tokens in sorted({n for table in tables for n in table.tokens_P}):
        view.add_row(str(tokens), *(_cell(table, tokens) for table in tables))
    return view


def _cell(table: LatencyTable, tokens: int) -> str:
    if tokens not in table.tokens_P:
        return ""
    at = table.tokens_P.index(tokens)
    median = human(table.median_s_P[at], "s")
    if not table.p10_s_P:
        return median
    return f"{median} ({human(table.p10_s_P[at], 's')} to {human(table.p90_s_P[at], 's')})"


def _rate(link: Link | None) -> str:
    return human(link.bytes_per_s, "B/s") if link else "none"
