"""`hetsched profiles show MODEL --format F[,F...]`: what a model needs by format, and which lanes compute with it."""

from __future__ import annotations

import argparse
from typing import Any

from hetsched.errors import InputError
from hetsched.geometry import BITS_ALONE, MoEGeometry, stored_name
from hetsched.machine.profile import ExpertShape
from hetsched.memory.needs import needs_of
from hetsched.report.documents import print_document
from hetsched.report.needs_view import NeedsRow, needs_page
from hetsched.report.tables import console

from .shapes import config_named, model_named

SCHEMA = "hetsched-needs/1"


def show_needs(args: argparse.Namespace) -> int:
    """One row a format, or why it cannot store such experts. Raises InputError for unknown names."""
    published, config = model_named(args.name), config_named(args.name)
    found = {name: _row(published, config, name, args.context) for name in args.format}
    if args.json:
        rows = [_document(name, row) for name, row in found.items()]
        print_document({"schema": SCHEMA, "model": published.name, "published": published.dtype, "rows": rows})
    else:
        console().print(needs_page(published, found))
    return 0


def _row(published: MoEGeometry, config: Any, name: str, context: int | None) -> NeedsRow:
    from hetsched.measure.lanes import lanes_of

    if stored_name(name) in BITS_ALONE:
        return "a width alone, for estimates: no engine runs it"
    try:
        geometry = published if stored_name(name) == published.dtype else published.with_dtype(name)
    except InputError as error:
        return str(error)
    return needs_of(geometry, config, context), lanes_of(ExpertShape.of(geometry))


def _document(name: str, row: NeedsRow) -> dict[str, Any]:
    if isinstance(row, str):
        return {"format": name, "refused": row}
    needs, lanes = row
    return {**needs._asdict(), "gpu": needs.gpu, "token": needs.token, "lanes": {"cpu": lanes[0], "gpu": lanes[1]}}
