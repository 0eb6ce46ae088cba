"""Figures as files: which formats are drawn, and writing one whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hetsched.errors import InputError
from hetsched.files import replacing

FORMATS = (".png", ".svg", ".pdf")


def check_format(path: Path) -> None:
    """Raise InputError for a suffix that is not drawn."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"cannot draw {path.name!r}; give a file that ends in {', '.join(FORMATS)}")


def save_figure(figure: Any, path: Path, dpi: int = 130) -> None:
    """Write a matplotlib figure. Raises InputError for a format that is not drawn, or a place that is none."""
    check_format(path)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format=path.suffix.lower().removeprefix("."))
