"""How each lane computes with experts as they are stored: what is measured nowhere, but known of the kernels."""

from __future__ import annotations

from typing import NamedTuple

from ..accelerators.cuda.loads import load_of
from ..cpu_kernels import kernel_names
from ..cpu_kernels.packed.matrix import serves
from ..geometry import formats_named
from ..machine.profile import ExpertShape

KERNELS = "as stored"
UNPACKED = "unpacked each time"


class Lanes(NamedTuple):
    """Of the CPU, and of a GPU in decode: weights are read as they are stored, or unpacked before every product."""

    cpu: str
    gpu: str


def lanes_of(shape: ExpertShape) -> Lanes:
    """The lanes of experts in formats that can store them; a width alone has none, since no engine runs it."""
    named = formats_named(shape.dtype)
    if named is None:
        return Lanes("none", "none")
    inner, outer = named
    matrices = ((inner, (shape.ffn, shape.hidden)), (outer, (shape.hidden, shape.ffn)))
    on_cpu = bool(kernel_names(shape.dtype)) or all(serves(*how) for how in matrices)
    loads = [(load_of(made), columns) for made, (_, columns) in matrices]
    on_gpu = all(load is not None and load.reads(columns) for load, columns in loads)
    return Lanes(KERNELS if on_cpu else UNPACKED, KERNELS if on_gpu else UNPACKED)
