"""Latency tables and datasheets of profile files: the parts that are no single figures."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import Any

from ..geometry import WEIGHT_BITS, is_installed_format
from .datasheet import PCIE_LANE_BYTES_PER_S, Datasheet
from .profile import DenseTable, ExpertShape, LatencyTable, Source
from .units import FFN, number, read_source
from .yaml_lines import Node

MAX_TOKENS = 2**31 - 1


def read_table(node: Node, default: Source) -> LatencyTable:
    """One FFN latency table; seconds."""
    shape = node.get("shape", required=True)
    table = LatencyTable(
        shape=_read_shape(shape) if shape else ExpertShape(1, 1, "bf16"),
        tokens_P=_tokens(node),
        median_s_P=_seconds(node, "median_s", required=True),
        p10_s_P=_seconds(node, "p10_s"),
        p90_s_P=_seconds(node, "p90_s"),
        source=read_source(node, default),
        kernel=node.text("kernel"),
        copy_busy=node.flag("copy_busy"),
        marginal=node.flag("marginal"),
    )
    node.only()
    _same_length(node, table)
    return table


def read_dense(node: Node, default: Source) -> DenseTable:
    """One table of the rest of a layer; seconds."""
    table = DenseTable(
        node.text("model", required=True), _tokens(node), _seconds(node, "median_s", True), read_source(node, default)
    )
    node.only()
    _same_length(node, table)
    return table


def table_mapping(table: LatencyTable) -> dict[str, Any]:
    """The YAML form of a latency table."""
    mapping: dict[str, Any] = {"shape": dict(vars(table.shape)), "source": table.source.value}
    if table.kernel:
        mapping["kernel"] = table.kernel
    if table.copy_busy:
        mapping["copy_busy"] = True
    if table.marginal:
        mapping["marginal"] = True
    columns = {"tokens": table.tokens_P, "median_s": table.median_s_P, "p10_s": table.p10_s_P, "p90_s": table.p90_s_P}
    return mapping | {key: list(column) for key, column in columns.items() if column}


def dense_mapping(table: DenseTable) -> dict[str, Any]:
    """The YAML form of a table of the rest of a layer."""
    return {
        "model": table.model,
        "source": table.source.value,
        "tokens": list(table.tokens_P),
        "median_s": list(table.median_s_P),
    }


def read_datasheet(node: Node) -> Datasheet:
    """A datasheet; every field typed and positive, the PCIe generation a known one."""
    values: dict[str, Any] = {}
    for field in fields(Datasheet):
        child = node.get(field.name, required=field.default is field.default_factory)
        if child is not None:
            values[field.name] = _sheet_value(child, str(field.type))
    node.only()
    generation = values.get("pcie_generation", 4)
    if generation not in PCIE_LANE_BYTES_PER_S:
        node.note(f"pcie_generation is {generation}; allowed: {', '.join(map(str, PCIE_LANE_BYTES_PER_S))}")
    blank = {"str": "", "float": 1.0, "int": 1}
    needed = {field.name: blank[str(field.type)] for field in fields(Datasheet) if str(field.type) in blank}
    return Datasheet(**{**needed, **values, "pcie_generation": values.get("pcie_generation", 4)})


def _sheet_value(node: Node, kind: str) -> Any:
    if kind == "str":
        return str(node.value)
    if kind.startswith("tuple"):
        return tuple(str(item.value) for item in node.items())
    value = number(node.value)
    low = 0.0 if node.key.endswith("pcie_lanes") else 1e-3
    if value is None or not low <= value <= 1e6 or (kind == "int" and value != int(value)):
        node.note(f"must be a {'whole ' if kind == 'int' else ''}number from {low:g} to 1e6, is {node.shown}")
        return 1
    return int(value) if kind == "int" else float(value)


def _read_shape(node: Node) -> ExpertShape:
    dtype = node.text("dtype", required=True)
    known = is_installed_format(dtype)
    if dtype and not known:
        node.note(f"dtype is {dtype!r}; allowed: {', '.join(WEIGHT_BITS)}")
    shape = ExpertShape(
        hidden=node.whole("hidden", 1, 1 << 20, 1, required=True),
        ffn=node.whole("ffn", 1, 1 << 20, 1, required=True),
        dtype=dtype if known else "bf16",
        matrices=node.whole("matrices", 1, 8, 3),
    )
    node.only()
    return shape


def _tokens(node: Node) -> tuple[int, ...]:
    child = node.get("tokens", required=True)
    if child is None:
        return ()
    values = [item.value for item in child.items()]
    if not values or any(isinstance(v, bool) or not isinstance(v, int) or not 1 <= v <= MAX_TOKENS for v in values):
        child.note(f"must be a list of whole numbers from 1 to {MAX_TOKENS}")
        return ()
    if any(later <= earlier for earlier, later in pairwise(values)):
        child.note("must ascend strictly")
    return tuple(values)


def _seconds(node: Node, name: str, required: bool = False) -> tuple[float, ...]:
    child = node.get(name, required)
    if child is None:
        return ()
    values: list[float] = []
    for item in child.items():
        value = number(item.value)
        if value is None or not FFN.low <= value <= FFN.high:
            item.note(f"must be seconds from {FFN.low:g} to {FFN.high:g}, is {item.shown}")
        else:
            values.append(value)
    return tuple(values) if len(values) == len(child.items()) else ()


def _same_length(node: Node, table: LatencyTable | DenseTable) -> None:
    columns = {"median_s": table.median_s_P}
    if isinstance(table, LatencyTable):
        columns |= {"p10_s": table.p10_s_P, "p90_s": table.p90_s_P}
    for name, column in columns.items():
        if column and table.tokens_P and len(column) != len(table.tokens_P):
            node.note(f"{name} has {len(column)} values for {len(table.tokens_P)} token counts")
