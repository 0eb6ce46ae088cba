"""Experts as rows of bytes: where each parameter lies, plain or in a format of hetsched.formats, and how it is read.

One row holds all of one expert, so that a fetch is one copy.
"""

from .layout import Matrix, PackedLayout, PackedPiece, PackedWeights, StoredAs, packed_layout
from .rows import ALIGN, Layout, Piece, layout_of, parameter_names
from .stack import PackedStack, put_packed
from .weight import PackedWeight, packed_parameter

__all__ = [
    "ALIGN",
    "Layout",
    "Matrix",
    "PackedLayout",
    "PackedPiece",
    "PackedStack",
    "PackedWeight",
    "PackedWeights",
    "Piece",
    "StoredAs",
    "layout_of",
    "packed_layout",
    "packed_parameter",
    "parameter_names",
    "put_packed",
]
