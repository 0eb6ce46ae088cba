"""What formats without a judge of their own mean, number by number as their layouts are published, in plain Python.

Shapes: R rows = outputs, C columns = inputs, G groups of columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.int32]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def four_bits(word: Any, place: int) -> int:
    """The number at a place of a word, the lowest bits first."""
    return (int(word) & 0xFFFFFFFF) >> (4 * place) & 15


def int4_groups(packed_RW: Words, scales_RG: Floats, group: int) -> Floats:
    """compressed-tensors' pack-quantized, symmetric: eight columns a word, 8 taken off."""
    rows, columns = len(packed_RW), packed_RW.shape[1] * 8
    out_RC = np.empty((rows, columns), np.float32)
    for r in range(rows):
        for c in range(columns):
            out_RC[r, c] = np.float32(four_bits(packed_RW[r, c // 8], c % 8) - 8) * scales_RG[r, c // group]
    return out_RC


def gptq(qweight_WR: Words, qzeros_GW: Words, scales_GR: Floats, group: int, offset: int) -> Floats:
    """AutoGPTQ's: eight inputs of one output a word; a word of zeros has eight outputs."""
    columns, rows = len(qweight_WR) * 8, qweight_WR.shape[1]
    out_RC = np.empty((rows, columns), np.float32)
    for r in range(rows):
        for c in range(columns):
            g = c // group
            zero = (four_bits(qzeros_GW[g, r // 8], r % 8) + offset) % 16
            out_RC[r, c] = np.float32(four_bits(qweight_WR[c // 8, r], c % 8) - zero) * scales_GR[g, r]
    return out_RC


def awq(qweight_CW: Words, qzeros_GW: Words, scales_GR: Floats, group: int) -> Floats:
    """AutoAWQ's: eight outputs of one input a word, interleaved; zeros alike."""
    columns, rows = len(qweight_CW), qweight_CW.shape[1] * 8
    out_RC = np.empty((rows, columns), np.float32)
    for r in range(rows):
        place = AWQ_ORDER.index(r % 8)
        for c in range(columns):
            g = c // group
            number = four_bits(qweight_CW[c, r // 8], place) - four_bits(qzeros_GW[g, r // 8], place)
            out_RC[r, c] = np.float32(number) * scales_GR[g, r]
    return out_RC
