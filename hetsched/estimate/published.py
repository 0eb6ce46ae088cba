"""Speeds that others published (published.yaml), and what this room estimates for the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..machine.datasheet import Datasheet, derive
from ..machine.gallery import model_config
from ..machine.profile import HardwareProfile
from .decode import decode
from .engine import Engine, engine_named
from .fit import fitting_split, n_cpu_moe
from .placement import Placement
from .prefill import prefill
from .speculate import Speculation, speculate
from .subject import Subject, subject_of
from .times import Times

FACTS = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Row:
    """One published measurement. `decode`, `prefill`: tokens a second, the middle of a range; None where not given."""

    id: str
    model: str
    engine: Engine
    subject: Subject
    machine: HardwareProfile
    placement: Placement
    setting: str
    context: int
    batch: int
    prompt: int
    speculation: Speculation | None
    decode: float | None
    prefill: float | None
    host_named: bool
    source: str


def rows(host: str | None = None) -> list[Row]:
    """All rows, in the file's order. `host`: of its hosts, the one taken where a source names none; None: as there."""
    document = facts()
    return [_row(document, fields, host or document["assumed"]["host"]) for fields in document["rows"]]


@cache
def facts() -> dict[str, Any]:
    """The file as it is."""
    found: dict[str, Any] = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
    return found


def estimated_decode(row: Row) -> Times:
    """What decoding takes by this room's rules."""
    given = (row.subject, row.machine, row.engine, row.placement, row.context)
    return speculate(*given, row.speculation) if row.speculation else decode(*given)


def estimated_prefill(row: Row) -> Times:
    """What the row's prompt takes by this room's rules."""
    return prefill(row.subject, row.machine, row.engine, row.placement, row.prompt, row.batch)


def _row(document: Mapping[str, Any], fields: Mapping[str, Any], usual_host: str) -> Row:
    assumed, name = document["assumed"], fields["model"]
    subject = subject_of(model_config(name), name, fields["file"], fields.get("kv_bytes", 2))
    sheet = {**document["gpus"][fields["gpu"]], **document["hosts"][fields.get("host", usual_host)]}
    machine = derive(Datasheet(**sheet), str(fields["id"]), str(document["gathered"]))
    context = fields.get("context", assumed["context"])
    drafts = fields.get("drafts", 0)
    return Row(
        id=fields["id"],
        model=f"{fields.get('as', name)} {fields['file']}",
        engine=engine_named(fields["engine"]),
        subject=subject,
        machine=machine,
        placement=_placement(fields, subject, machine, context),
        setting=_setting(fields),
        context=context,
        batch=fields.get("batch", assumed["batch"]),
        prompt=fields.get("prompt", 0),
        speculation=Speculation(drafts, assumed["acceptance"]) if drafts else None,
        decode=_middle(fields.get("decode")),
        prefill=_middle(fields.get("prefill")),
        host_named="host" in fields,
        source=fields["source"],
    )


def _placement(fields: Mapping[str, Any], subject: Subject, machine: HardwareProfile, context: int) -> Placement:
    if "hot" in fields:
        return Placement.hot(subject.geometry, fields["hot"])
    on_cpu = fields["on_cpu"]
    if on_cpu == "fit":
        assert machine.gpu is not None
        return fitting_split(subject, machine.gpu.capacity_bytes, context)
    return Placement.split(subject.geometry.num_layers) if on_cpu == "all" else n_cpu_moe(subject, on_cpu)


def _setting(fields: Mapping[str, Any]) -> str:
    where = f"{fields['hot']} experts a layer on the GPU" if "hot" in fields else f"on the CPU: {fields['on_cpu']}"
    return f"{where}, {fields['drafts']} drafts" if "drafts" in fields else where


def _middle(ends: list[float] | None) -> float | None:
    return sum(ends) / len(ends) if ends else None
