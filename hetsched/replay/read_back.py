"""A comparison read back from the JSON document that it was written as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from ..errors import InputError
from .cell import Row, SpeculativeRow
from .result import SCHEMA, BoundRow, Comparison, Failure

MOST = 1e30  # of any figure; what is beyond makes infinities of pictures
LISTS = ("rows", "bounds", "failures")
FACTS: dict[str, type] = {  # what views ask for
    "model": str,
    "tokens_scored": int,
    "tokens_emitted": int,
    "steps": int,
    "sequences_scored": int,
    "sequences_fitted": int,
    "phases": dict,
    "notes": list,
}


def comparison_from(document: Mapping[str, Any]) -> Comparison:
    """The comparison of a "hetsched-compare/1" document; rows of speculation stay such. Unknown names are left out.

    Raises InputError naming the first place that is not as documented.
    """
    if document.get("schema") != SCHEMA:
        raise InputError(
            f"the schema is {document.get('schema')!r:.60}, not {SCHEMA!r}; give what compare --json wrote"
        )
    for name in LISTS:
        if not isinstance(document.get(name), list):
            raise _wrong(name, "a list")
    facts = {name: value for name, value in document.items() if name not in ("schema", "headline", *LISTS)}
    for name, kind in FACTS.items():
        _value(facts.get(name), kind, name)
    for name, count in facts["phases"].items():
        _value(count, int, f"phases.{name}")
    rows = [_row(row, f"rows[{i}]") for i, row in enumerate(document["rows"])]
    bounds = [_made(BoundRow, bound, f"bounds[{i}]") for i, bound in enumerate(document["bounds"])]
    failures = [_made(Failure, failure, f"failures[{i}]") for i, failure in enumerate(document["failures"])]
    return Comparison(rows, bounds, failures, {**facts, "notes": [str(note) for note in facts["notes"]]})


def _row(row: Any, where: str) -> Row:
    drafting = row.get("speculation") if isinstance(row, dict) else None
    if isinstance(drafting, dict):
        speculative: Row = _made(SpeculativeRow, {**row, **drafting}, where)
        return speculative
    made: Row = _made(Row, row, where)
    return made


def _made(kind: Any, values: Any, where: str) -> Any:
    """A dataclass or named tuple from an object, each field of its type."""
    if not isinstance(values, dict):
        raise _wrong(where, "an object")
    hints = get_type_hints(kind)
    optional = set(getattr(kind, "_field_defaults", ())) | (
        {f.name for f in fields(kind) if f.default is not MISSING} if not hasattr(kind, "_fields") else set()
    )
    taken = {}
    for name, hint in hints.items():
        if name in values:
            taken[name] = _value(values[name], hint, f"{where}.{name}")
        elif name not in optional:
            raise _wrong(f"{where}.{name}", "there")
    return kind(**taken)


def _value(value: Any, hint: Any, where: str) -> Any:
    if value is None and hint == (float | None):
        return None
    if hint in (float, float | None):
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST:
            raise _wrong(where, f"a number, and at most {MOST:g}")
        return float(value)
    if not isinstance(value, hint) or (hint is int and (isinstance(value, bool) or not abs(value) <= MOST)):
        raise _wrong(where, f"of type {getattr(hint, '__name__', hint)}, or too large")
    return value


def _wrong(where: str, expected: str) -> InputError:
    return InputError(f"{where} of the comparison is not {expected}; give what compare --json wrote, as it was written")
