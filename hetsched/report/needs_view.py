"""What a model needs by format, as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from hetsched.geometry import MoEGeometry
from hetsched.machine.units import human
from hetsched.memory.needs import Needs
from hetsched.report.tables import Column, Page, Sheet, figures

NeedsRow: TypeAlias = "tuple[Needs, tuple[str, str]] | str"  # and how CPU and GPU compute with it; or why it cannot be


def needs_page(published: MoEGeometry, found: Mapping[str, NeedsRow]) -> Page:
    """A line for each format by name; what the model cannot be stored as is said below."""
    drop = ("of it experts", "one expert")
    columns = figures("one expert", "RAM for experts", "GPU: dense + KV", "read a token", "of it experts", drop=drop)
    table = Sheet("experts as", *columns, Column("CPU lane"), Column("GPU lane"), title=f"{published.name}: needs")
    notes, context = [], 0
    for name, row in found.items():
        if isinstance(row, str):
            notes.append(f"{name}: {row}")
            continue
        needs, lanes = row
        context = needs.context
        sizes = needs.expert, needs.host_experts, needs.gpu, needs.token, needs.token_experts
        shown = f"{name} (published)" if name == published.dtype else name
        table.add(shown, *(human(size, "B") for size in sizes), *lanes)
    rest = f"cache of {context:,} tokens; all but experts in 16 bits; a token read for alone" if context else ""
    return Page(table, *([rest] if rest else []), *notes)
