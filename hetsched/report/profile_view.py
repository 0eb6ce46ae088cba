"""Profiles and model geometries as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType

from hetsched.machine.model_yaml import ModelCard
from hetsched.machine.profile import HardwareProfile, LatencyTable, Link, Processor
from hetsched.machine.units import human
from hetsched.report.tables import Column, Page, Sheet


def machine_table(profiles: Sequence[HardwareProfile]) -> Sheet:
    """One line a machine: memory and rates; the title says how they were obtained."""
    sources = ", ".join(sorted({profile.source.value for profile in profiles}))
    names = ("machine", "GPU memory", "GPU read", "link", "host", "host read")
    table = Sheet(*names, title=f"Machines (source of all figures: {sources})")
    for p in profiles:
        gpu = p.gpu
        table.add(
            p.name,
            human(gpu.capacity_bytes, "B") if gpu else "none",
            human(gpu.read_bytes_per_s, "B/s") if gpu else "",
            "unified" if p.unified_memory else _rate(p.h2d),
            human(p.cpu.capacity_bytes, "B"),
            human(p.cpu.read_bytes_per_s, "B/s"),
        )
    return table


def model_table(cards: Iterable[ModelCard], variants: bool = False) -> Sheet:
    """One line a model as published, or one for each dtype that it is usually run in."""
    table = Sheet("model", "layers", "experts", "hidden x ffn", "dtype", "expert", "all", title="Models")
    for card in cards:
        for dtype in card.dtypes if variants else (card.geometry.dtype,):
            g = card.geometry.with_dtype(dtype)
            sizes = human(g.expert_bytes, "B"), human(g.total_expert_bytes, "B")
            counts = str(g.num_layers), f"{g.top_k} of {g.num_experts}"
            table.add(g.name, *counts, f"{g.hidden} x {g.ffn}", dtype, *sizes)
    return table


def profile_view(profile: HardwareProfile) -> Page:
    """All of one profile: figures with unit, provenance and reason, then tables, then notes."""
    title = f"{profile.name}: {profile.title} ({profile.date})"
    table = Sheet("figure", "value", "source", Column("how", prose=True), title=title)
    for key, value, unit in _figures(profile):
        source = profile.provenance.get(key, profile.source).value
        table.add(key, human(value, unit), source, profile.reasons.get(key, ""))
    parts: list[RenderableType] = [table]
    for key, device in profile.processors:
        parts += ["", _latency(key, device.tables)] if device.tables else []
    return Page(*parts, "", *(f"note: {note}" for note in profile.notes))


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
    rows += [("pinnable_bytes", profile.pinnable_bytes, "B")] if profile.pinnable_bytes else []
    host = vars(profile.host) if profile.host else {}
    return [*rows, *((f"host.{name}", seconds, "s") for name, seconds in host.items())]


def _of_processor(device: Processor) -> list[tuple[str, float, str]]:
    return [
        ("capacity_bytes", device.capacity_bytes, "B"),
        ("read_bytes_per_s", device.read_bytes_per_s, "B/s"),
        ("flops_per_s", device.flops_per_s, "FLOP/s"),
        ("call_s", device.call_s, "s"),
        ("per_expert_s", device.per_expert_s, "s"),
        ("dense_call_s", device.dense_call_s, "s"),
    ]


def _latency(key: str, tables: Sequence[LatencyTable]) -> Sheet:
    """Of each shape measured the median and, where there is room, the spread; the first shape stays longest."""
    columns = [Column("tokens", right=True)]
    for i, table in enumerate(tables):
        kind = f"{table.kernel or table.source.value}{', copy busy' if table.copy_busy else ''}"
        columns.append(Column(f"{table.shape}\n{kind}", drop=2 * len(tables) - i if i else 0))
        columns += [Column(f"{table.shape}\n10th to 90th", drop=len(tables) - i)] if table.p10_s_P else []
    view = Sheet(*columns, title=f"{key}: one expert's FFN, median and 10th to 90th percentile")
    for tokens in sorted({n for table in tables for n in table.tokens_P}):
        view.add(str(tokens), *(cell for table in tables for cell in _cells(table, tokens)))
    return view


def _cells(table: LatencyTable, tokens: int) -> list[str]:
    if tokens not in table.tokens_P:
        return ["", ""] if table.p10_s_P else [""]
    at = table.tokens_P.index(tokens)
    spread = [f"{human(table.p10_s_P[at], 's')} to {human(table.p90_s_P[at], 's')}"] if table.p10_s_P else []
    return [human(table.median_s_P[at], "s"), *spread]


def _rate(link: Link | None) -> str:
    return human(link.bytes_per_s, "B/s") if link else "none"
