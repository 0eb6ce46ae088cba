"""HardwareProfile <-> YAML, `schema: hetsched-profile/1`. The schema in words: profiles/README.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

from .datasheet import DENSE_CALLS, Datasheet
from .facts import note_facts
from .profile import HardwareProfile, HostCost, Link, Processor
from .units import CHUNK, DELAY, DELAYS, FLOPS, MEMORY, RATE, SHARE, SLOWDOWN, Figures, read_source
from .yaml_lines import Node, read_document, read_yaml, write_yaml
from .yaml_tables import dense_mapping, read_datasheet, read_dense, read_table, table_mapping

SCHEMA = "hetsched-profile/1"


def load_profile(path: Path | str) -> HardwareProfile:
    """The profile in a YAML file. Raises FileError, an InputError, with every problem of the file by key and line."""
    profile: HardwareProfile = read_yaml(Path(path), SCHEMA, _read)
    return profile


def profile_of(document: Mapping[str, Any], where: str = "the profile") -> HardwareProfile:
    """The profile of such a mapping as profile_document() gives. Raises FileError, as load_profile() does."""
    profile: HardwareProfile = read_document(document, where, SCHEMA, _read)
    return profile


def save_profile(profile: HardwareProfile, path: Path | str) -> None:
    """Write the profile atomically; loading it again gives an equal one. Raises InputError where it cannot be."""
    write_yaml(Path(path), profile_document(profile))


def _read(root: Node) -> HardwareProfile:
    source = read_source(root)
    figures = Figures(source)
    head = {key: root.text(key) for key in ("title", "tool")}
    contention = root.get("contention")
    profile = HardwareProfile(
        name=root.text("name", required=True),
        date=_read_date(root),
        source=source,
        unified_memory=root.flag("unified_memory"),
        cpu=_read_processor(root.get("cpu", required=True), figures) or _NOTHING,
        gpu=_read_processor(root.get("gpu"), figures),
        h2d=_read_link(root.get("h2d"), figures),
        d2h=_read_link(root.get("d2h"), figures),
        cpu_slowdown=figures.read(contention, "cpu_slowdown", SLOWDOWN, 1.0) if contention else 1.0,
        h2d_slowdown=figures.read(contention, "h2d_slowdown", SLOWDOWN, 1.0) if contention else 1.0,
        pinnable_bytes=int(figures.read(root, "pinnable_bytes", MEMORY, 0)),
        host=read_host(root.get("host"), figures),
        fingerprint=_read_fingerprint(root.get("fingerprint")),
        notes=_read_notes(root.get("notes")),
        datasheet=_read_sheet(root.get("datasheet")),
        provenance=figures.provenance,
        reasons=figures.reasons,
        **head,
    )
    if contention:
        contention.only()
    note_facts(root, profile)
    return profile


_NOTHING = Processor("", int(MEMORY.low), RATE.low, FLOPS.low, 0.0)


def _read_processor(node: Node | None, figures: Figures) -> Processor | None:
    if node is None:
        return None
    tables, dense = node.get("tables"), node.get("dense")
    call_s, each_s, dense_call_s = _read_calls(node, figures)
    device = Processor(
        name=node.text("name", required=True),
        capacity_bytes=int(figures.read(node, "capacity_bytes", MEMORY)),
        read_bytes_per_s=figures.read(node, "read_bytes_per_s", RATE),
        flops_per_s=figures.read(node, "flops_per_s", FLOPS),
        call_s=call_s,
        tables=tuple(read_table(item, figures.source) for item in tables.items()) if tables else (),
        dense=tuple(read_dense(item, figures.source) for item in dense.items()) if dense else (),
        per_expert_s=each_s,
        dense_call_s=dense_call_s,
    )
    node.only()
    return device


def _read_calls(node: Node, figures: Figures) -> tuple[float, float, float]:
    """`call_s`, `per_expert_s` and `dense_call_s`.

    A file without `per_expert_s` is from the time when every expert was a call of its own, and its `call_s` is what
    that took: it is read as `per_expert_s` of a machine without a cost per lane, which predicts what it did then.
    """
    call_s = figures.read(node, "call_s", DELAY)
    dense_call_s = figures.read(node, "dense_call_s", DELAYS, DENSE_CALLS * call_s)
    if node.get("per_expert_s"):
        return call_s, figures.read(node, "per_expert_s", DELAY), dense_call_s
    figures.rename(f"{node.key}.call_s", f"{node.key}.per_expert_s")
    return 0.0, call_s, dense_call_s


def _read_link(node: Node | None, figures: Figures) -> Link | None:
    if node is None:
        return None
    link = Link(
        latency_s=figures.read(node, "latency_s", DELAY),
        bytes_per_s=figures.read(node, "bytes_per_s", RATE),
        chunk_bytes=int(figures.read(node, "chunk_bytes", CHUNK, Link.chunk_bytes)),
        pageable_latency_s=figures.read(node, "pageable_latency_s", DELAY, 0.0),
        pageable_bytes_per_s=figures.read(node, "pageable_bytes_per_s", RATE, 0.0),
        residual=figures.read(node, "residual", SHARE, 0.0),
    )
    node.only()
    return link


def read_host(node: Node | None, figures: Figures) -> HostCost | None:
    """The engine's own time; None where the file says nothing of it."""
    if node is None:
        return None
    host = HostCost(*(figures.read(node, field.name, DELAY) for field in fields(HostCost)))
    node.only()
    return host


def _read_date(root: Node) -> str:
    text, node = root.text("date", required=True), root.get("date")
    try:
        date.fromisoformat(text or "2026-01-31")
    except ValueError:
        (node or root).note(f"must be a date like 2026-01-31, is {text!r}")
    return text


def _read_fingerprint(node: Node | None) -> Mapping[str, str | int]:
    if node is None:
        return {}
    found: dict[str, str | int] = {}
    for key, child in node.children().items():
        value = child.value
        if isinstance(value, bool) or not isinstance(value, str | int):
            child.note(f"must be text or a whole number, is {child.shown}")
        else:
            found[key] = value
    return found


def _read_notes(node: Node | None) -> tuple[str, ...]:
    return tuple(str(item.value) for item in node.items()) if node else ()


def _read_sheet(node: Node | None) -> Datasheet | None:
    return read_datasheet(node) if node else None


def profile_document(profile: HardwareProfile) -> dict[str, Any]:
    """The profile as the mapping that its YAML and JSON forms hold."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "name": profile.name,
        "title": profile.title,
        "source": profile.source.value,
        "date": profile.date,
        "tool": profile.tool,
        "unified_memory": profile.unified_memory,
    }
    for key, device in (("gpu", profile.gpu), ("cpu", profile.cpu)):
        if device is not None:
            document[key] = _processor_mapping(profile, key, device)
    for key, link in (("h2d", profile.h2d), ("d2h", profile.d2h)):
        if link is not None:
            document[key] = _link_mapping(profile, key, link)
    if profile.gpu is not None:
        document["contention"] = {
            name: _figure(profile, f"contention.{name}", getattr(profile, name), "1")
            for name in ("cpu_slowdown", "h2d_slowdown")
        }
    if profile.pinnable_bytes:
        document["pinnable_bytes"] = _figure(profile, "pinnable_bytes", profile.pinnable_bytes, "B")
    if profile.host is not None:
        document["host"] = {
            name: _figure(profile, f"host.{name}", seconds, "s") for name, seconds in vars(profile.host).items()
        }
    tail = {"fingerprint": dict(profile.fingerprint), "notes": list(profile.notes)}
    document.update({key: value for key, value in tail.items() if value})
    if profile.datasheet is not None:
        document["datasheet"] = datasheet_mapping(profile.datasheet)
    return document


def datasheet_mapping(sheet: Datasheet) -> dict[str, Any]:
    """The datasheet as its YAML form: field names carry the units."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(sheet).items()}


def _figure(profile: HardwareProfile, key: str, value: float, unit: str) -> dict[str, Any]:
    figure = {"value": value, "unit": unit, "source": profile.provenance.get(key, profile.source).value}
    reason = profile.reasons.get(key)
    return {**figure, "note": reason} if reason else figure


def _processor_mapping(profile: HardwareProfile, key: str, device: Processor) -> dict[str, Any]:
    units = {"capacity_bytes": "B", "read_bytes_per_s": "B/s", "flops_per_s": "FLOP/s"}
    units |= {"call_s": "s", "per_expert_s": "s", "dense_call_s": "s"}
    mapping: dict[str, Any] = {"name": device.name}
    for name, unit in units.items():
        mapping[name] = _figure(profile, f"{key}.{name}", getattr(device, name), unit)
    if device.tables:
        mapping["tables"] = [table_mapping(table) for table in device.tables]
    if device.dense:
        mapping["dense"] = [dense_mapping(table) for table in device.dense]
    return mapping


def _link_mapping(profile: HardwareProfile, key: str, link: Link) -> dict[str, Any]:
    units = {"latency_s": "s", "bytes_per_s": "B/s", "chunk_bytes": "B"}
    if link.pageable_bytes_per_s:
        units |= {"pageable_latency_s": "s", "pageable_bytes_per_s": "B/s"}
    if link.residual:
        units |= {"residual": "1"}
    return {name: _figure(profile, f"{key}.{name}", getattr(link, name), unit) for name, unit in units.items()}
