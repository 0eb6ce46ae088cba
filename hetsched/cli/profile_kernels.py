"""`hetsched profile --kernels`: CPU kernels beside each other, for a dtype or for formats as checkpoints store them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from hetsched.errors import InputError
from hetsched.formats import Format, format_of
from hetsched.geometry import MoEGeometry
from hetsched.machine.units import human
from hetsched.plugins import installed, tuning_of
from hetsched.report.documents import print_document
from hetsched.report.tables import Column, Page, Sheet, console, figures

if TYPE_CHECKING:
    from hetsched.measure.cpu_kernels import KernelRow
    from hetsched.measure.format_kernels import FormatTable

SCHEMA = "hetsched-kernels/1"
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128)  # without formats


def show_kernels(args: argparse.Namespace, geometry: MoEGeometry) -> int:
    """Compare the kernels for the geometry's dtype, or for the formats of --format; 0 done.

    Raises InputError for formats that are not installed or cannot store such experts.
    """
    if args.format:
        return _formats(args, geometry, named_formats(args.format))
    with console(stderr=True).status("comparing CPU kernels"):
        import torch

        from hetsched.measure.cpu import runnable_shape
        from hetsched.measure.cpu_kernels import kernel_table
        from hetsched.measure.request import Request

        request = Request(geometry, quick=args.quick)
        shape, _ = runnable_shape(request.shape, packed=False)
        with torch.inference_mode():
            rows = kernel_table(shape, TOKENS, request.budget_s, args.lossy)
    if args.json:
        print_document(_document(rows, shape.dtype, shape.params))
        return 0
    rest = figures("time", "reads", "of roof", "over fp32", "error", drop=("reads", "over fp32", "of roof"))
    table = Sheet(Column("tokens", right=True), "kernel", *rest)
    for row in rows:
        name = row.kernel if row.lossless else f"{row.kernel} (lossy)"
        shares = f"{row.roof_share:.0%}", f"{row.against_fp32:.2f} x", f"{row.error:.1e}"
        table.add(str(row.n), name, human(row.median_s, "s"), human(row.bytes_per_s, "B/s"), *shares)
    console().print(Page(table))
    return 0


def named_formats(specs: list[str]) -> dict[str, Format]:
    """Formats by what tables call them: their name, and the arguments that were given. ["all"]: all there are."""
    found = {}
    for spec in sorted(installed("hetsched.formats")) if specs == ["all"] else specs:
        made = format_of(spec)
        name = f"{made.name}{tuning_of(spec)}"
        if name in found:
            raise InputError(f"--format names {name} twice")
        found[name] = made
    return found


def _formats(args: argparse.Namespace, geometry: MoEGeometry, formats: dict[str, Format]) -> int:
    with console(stderr=True).status("starting torch") as status:
        import torch

        from hetsched.measure.format_kernels import format_table
        from hetsched.measure.request import Request

        request = Request(geometry, quick=args.quick)
        with torch.inference_mode():
            table = format_table(formats, request.shape, request.budget_s, report=status.update)
    if args.json:
        rows = [row._asdict() for row in table.rows]
        print_document({"schema": SCHEMA, "read_gb_per_s": table.read_gb_per_s, "rows": rows})
    else:
        console().print(_format_page(table))
    return 0


def _format_page(table: FormatTable) -> Page:
    sheet = Sheet("format", Column("tokens", right=True), "kernel", *figures("reads", "weights/s", "of read rate"))
    for row in table.rows:
        rates = human(1e9 * row.gb_per_s, "B/s"), f"{row.weights_per_s / 1e9:.3g} G", f"{row.share:.0%}"
        sheet.add(row.format, str(row.tokens), row.kernel if row.lossless else f"{row.kernel} (lossy)", *rates)
    return Page(
        sheet, f"memory is read at up to {human(1e9 * table.read_gb_per_s, 'B/s')}; shares are of reads in between"
    )


def _document(rows: list[KernelRow], dtype: str, params: int) -> dict[str, Any]:
    """The same columns as with formats, and what is known besides."""
    read = max(row.bytes_per_s / row.roof_share for row in rows)
    shown = [
        {
            "format": "fp32" if row.kernel == "torch-fp32" else dtype,
            "tokens": row.n,
            "kernel": row.kernel,
            "gb_per_s": row.bytes_per_s / 1e9,
            "weights_per_s": params / row.median_s,
            "share": row.roof_share,
            "lossless": row.lossless,
            "median_s": row.median_s,
            "against_fp32": row.against_fp32,
            "error": row.error,
        }
        for row in rows
    ]
    return {"schema": SCHEMA, "read_gb_per_s": read / 1e9, "rows": shown}
