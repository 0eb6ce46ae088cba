"""What must hold between the figures of a profile: facts that a range check of each alone cannot see."""

from __future__ import annotations

from .profile import HardwareProfile, LatencyTable, Processor
from .yaml_lines import Node

DIP = 0.5  # more tokens may be faster than fewer, as kernels change, but never by more than this
CACHE_LIE = 1.5  # n = 1 faster than this many times the read rate was measured out of a cache


def note_facts(root: Node, profile: HardwareProfile) -> None:
    """Note every fact that the profile breaks, at the line of the part concerned."""
    if profile.pinnable_bytes > profile.cpu.capacity_bytes:
        _at(root, "pinnable_bytes", f"exceeds cpu.capacity_bytes, {profile.cpu.capacity_bytes}")
    if (profile.gpu is None) != (profile.h2d is None) or (profile.gpu is None) != (profile.d2h is None):
        root.note("gpu, h2d and d2h come together: give all three, or none")
    if (host := profile.host) and not host.p10_s <= host.layer_s <= host.p90_s:
        _at(root, "host", "must have p10_s <= layer_s <= p90_s")
    for key, link in (("h2d", profile.h2d), ("d2h", profile.d2h)):
        if link and link.pageable_bytes_per_s > 1.1 * link.bytes_per_s:
            _at(root, key, "copies faster from pageable than from pinned memory; are the two swapped?")
    for key, device in profile.processors:
        _note_tables(root, key, device)


def _note_tables(root: Node, key: str, device: Processor) -> None:
    section = root.get(key)
    tables = section.get("tables") if section else None
    if tables is None:
        return
    for node, table in zip(tables.items(), device.tables, strict=True):
        for text in table_faults(table, device):
            node.note(text)


def table_faults(table: LatencyTable, device: Processor) -> list[str]:
    """What is impossible about a latency table: percentiles out of order, a cliff downwards, faster than memory."""
    faults = []
    columns = zip(table.p10_s_P or table.median_s_P, table.median_s_P, table.p90_s_P or table.median_s_P, strict=False)
    if any(not low <= median <= high for low, median, high in columns):
        faults.append("must have p10_s <= median_s <= p90_s at every token count")
    slowest = 0.0
    for tokens, seconds in zip(table.tokens_P, table.median_s_P, strict=False):
        if seconds < DIP * slowest:
            faults.append(f"median_s falls to less than half at {tokens} tokens; more work cannot take so much less")
        slowest = max(slowest, seconds)
    read_s = table.shape.weight_bytes / device.read_bytes_per_s
    if table.median_s_P and table.median_s_P[0] * CACHE_LIE < read_s:
        faults.append(f"median_s starts faster than memory can be read ({read_s:.3g} s): weights came from a cache")
    return faults


def _at(root: Node, key: str, text: str) -> None:
    node = root.get(key)
    (node or root).note(text)
