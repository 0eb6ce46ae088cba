"""How each lane computes with experts as they are stored: what is measured nowhere, but known of the kernels."""

from __future__ import annotations

from typing import NamedTuple

from ..cpu_kernels import kernel_names
from ..cpu_kernels.packed.matrix import serves
from ..geometry import formats_named
from ..machine.profile import ExpertShape

KERNELS = "as stored"
UNPACKED = "unpacked each time"


class Lanes(NamedTuple):
    """Of the CPU, and of a GPU: weights are read as they are stored, or unpacked before every product."""

    cpu: str
    gpu: str


def lanes_of(shape: ExpertShape) -> Lanes:
    """The lanes of experts in formats that can store them; of a width alone there is none, since no engine runs it."""
    named = formats_named(shape.dtype)
    if named is None:
        return Lanes("none", "none")
    inner, outer = named
    matrices = ((inner, (shape.ffn, shape.hidden)), (outer, (shape.hidden, shape.ffn)))
    plain = bool(kernel_names(shape.dtype))
    on_cpu = plain or all(serves(*how) for how in matrices)
    return Lanes(KERNELS if on_cpu else UNPACKED, KERNELS if plain else UNPACKED)
