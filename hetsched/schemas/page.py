"""docs/json.md, made of the schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import schemas

HEAD = """# JSON documents

With `--json` a verb prints one document on standard output and nothing else there; progress, warnings and errors go to
standard error. `schema` names what it is and its version, and there is a
JSON Schema (draft 2020-12) of each in the package (`hetsched/schemas/`), so that a program can check what it
reads. Within a version nothing is renamed or taken away; a new field may come in. No number is NaN or infinite: what
was not measured is null. Names carry units: `_s` seconds, `_bytes` bytes, `_per_s` a second; shares and rates are
from 0 to 1.

This page is made by `python -m hetsched.schemas > docs/json.md`. An optional field has a question mark.
"""
ANY = "anything"


def page() -> str:
    """The page, a section a document."""
    return "\n".join([HEAD, *(line for name, schema in schemas().items() for line in _section(name, schema))])


def _section(name: str, schema: dict[str, Any]) -> Iterator[str]:
    """Of one schema: the commands that print it, what it is, its fields."""
    commands = ", ".join(f"`{command}`" for command in schema["title"].split(", "))
    yield from (f"## {name}", "", f"{schema['description']} {commands}", "")
    for number, shape in enumerate(schema.get("anyOf", [schema])):
        if number:
            yield from ("or", "")
        yield from _table(shape)
    for part, shape in schema.get("$defs", {}).items():
        yield from (f"Where it says {part}: {_type(shape)}", "", *(_table(shape) if _is(shape, "object") else ()))


def _table(shape: dict[str, Any]) -> Iterator[str]:
    yield from ("| field | type | meaning |", "| --- | --- | --- |", *_rows(shape, ""), "")


def _rows(shape: dict[str, Any], before: str) -> Iterator[str]:
    """A row a field, and beneath it those of what it holds."""
    required = shape.get("required", [])
    for name, field in shape.get("properties", {}).items():
        path = f"{before}{name}"
        asked = "" if name in required else "?"
        about = field.get("description", "")
        yield f"| `{path}`{asked} | {_type(field)} | {about.replace('|', chr(92) + '|')} |"
        held = _held(field)
        inner = f"{path}[]." if _is(field, "array") else f"{path}."
        yield from _rows(held, inner)
    for pattern, field in shape.get("patternProperties", {}).items():
        yield f"| `{before}{pattern.strip('^')}`... ? | {_type(field)} | {field.get('description', '')} |"


def _held(field: dict[str, Any]) -> dict[str, Any]:
    """The shape within a field: an object's, or that of a list's objects."""
    inner: dict[str, Any] = field.get("items", {}) if _is(field, "array") else field
    return inner if _is(inner, "object") else {}


def _is(field: dict[str, Any], kind: str) -> bool:
    named = field.get("type")
    return kind == named or (isinstance(named, list) and kind in named)


def _type(field: dict[str, Any]) -> str:
    """What a field holds, in words."""
    if "const" in field:
        return f'"{field["const"]}"'
    if "enum" in field:
        return " or ".join("null" if value is None else f'"{value}"' for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if "$ref" in field:
        reference = field["$ref"].removeprefix("../")
        return reference.rpartition("/")[2] if reference.startswith("#") else f"[{reference}](#{_anchor(reference)})"
    named = field.get("type", ANY)
    return " or ".join(_named(kind, field) for kind in ([named] if isinstance(named, str) else named))


def _named(kind: str, field: dict[str, Any]) -> str:
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    inner = field.get("additionalProperties")
    return f"map to {_type(inner)}" if kind == "object" and isinstance(inner, dict) else kind


def _anchor(heading: str) -> str:
    return heading.replace("/", "")
