"""What --json printed, held against its schema."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from hetsched.schemas import schemas


def document_of(printed: str) -> dict[str, Any]:
    """The one document, which has a schema, keeps to it, and has no number that JSON lacks."""
    document: dict[str, Any] = json.loads(printed, parse_constant=_refuse)
    errors = [f"{error.json_path}: {error.message}" for error in validator(document["schema"]).iter_errors(document)]
    assert not errors, errors
    return document


@cache
def validator(name: str) -> Draft202012Validator:
    """Of the documents of this name; schemas may point at each other."""
    found = schemas()
    registry = Registry[Any]().with_resources((key, Resource.from_contents(made)) for key, made in found.items())
    return Draft202012Validator(found[name], registry=registry)


def _refuse(number: str) -> float:
    raise AssertionError(f"{number} is no number in JSON")
