"""Formats: how checkpoints store weight matrices, as plug-ins of the group `hetsched.formats`, one file each.

A format says how many bytes a matrix takes and where its parts lie, unpacks it exactly (which is what the checkpoint's
numbers are), and packs weights where this project writes it. Nothing here is fast; hetsched.cpu_kernels is.
"""

from .base import Format, Part, Parts, Shape, format_of, spec_of, views_of

__all__ = ["Format", "Part", "Parts", "Shape", "format_of", "spec_of", "views_of"]
