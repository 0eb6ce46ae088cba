"""Rows added one after another in the order given, as eager adds its experts, in one call instead of one an expert.

Each addition rounds to the sum's own dtype, as torch's does. Shapes: S rows, T tokens, H hidden.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ..jit import compiled, compiled_and_kept

BITS = {torch.float32: torch.float32, torch.bfloat16: torch.uint16}  # what NumPy and numba know them as


def make_ready() -> None:
    """Compile now what the first layer would else wait for, or read it from disk."""
    for dtype in BITS:
        add_rows(torch.zeros((1, 1), dtype=dtype), torch.zeros(1, dtype=torch.int64), torch.zeros((1, 1), dtype=dtype))


def add_rows(out_TH: torch.Tensor, rows_S: torch.Tensor, part_SH: torch.Tensor) -> bool:
    """out_TH[rows_S[s]] += part_SH[s] for each s in turn, on the host; False where that dtype has no kernel."""
    bits = BITS.get(out_TH.dtype)
    if bits is None or not out_TH.is_cpu:
        return False
    if bits is out_TH.dtype:
        _add_fp32(out_TH.numpy(), rows_S.numpy(), part_SH.numpy())
    else:
        _add_bf16(out_TH.view(bits).numpy(), rows_S.numpy(), part_SH.view(bits).numpy())
    return True


@compiled_and_kept
def _add_fp32(out_TH: npt.NDArray[np.float32], rows_S: npt.NDArray[np.int64], part_SH: npt.NDArray[np.float32]) -> None:
    for s in range(len(rows_S)):
        t = rows_S[s]
        for h in range(out_TH.shape[1]):
            out_TH[t, h] += part_SH[s, h]


@compiled
def _widen(narrow_H: npt.NDArray[np.uint16], wide_H: npt.NDArray[np.uint32]) -> None:
    """A bf16 is the upper half of a fp32."""
    for h in range(len(wide_H)):
        wide_H[h] = np.uint32(narrow_H[h]) << np.uint32(16)


@compiled
def _round(wide_H: npt.NDArray[np.uint32]) -> None:
    """To the nearest bf16, a tie to the even; NaN stays NaN."""
    for h in range(len(wide_H)):
        bits = wide_H[h]
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        wide_H[h] = np.uint32(0x7FC00000) if is_nan else rounded


@compiled
def _narrow(wide_H: npt.NDArray[np.uint32], narrow_H: npt.NDArray[np.uint16]) -> None:
    for h in range(len(wide_H)):
        narrow_H[h] = np.uint16(wide_H[h] >> np.uint32(16))


@compiled
def _accumulate(sum_H: npt.NDArray[np.float32], part_H: npt.NDArray[np.float32]) -> None:
    for h in range(len(sum_H)):
        sum_H[h] += part_H[h]


@compiled_and_kept
def _add_bf16(out_TH: npt.NDArray[np.uint16], rows_S: npt.NDArray[np.int64], part_SH: npt.NDArray[np.uint16]) -> None:
    """The sum of a token stays wide while the next row is the same token's."""
    sum_H, part_H = np.empty(out_TH.shape[1], np.uint32), np.empty(out_TH.shape[1], np.uint32)
    sum_float_H, part_float_H = sum_H.view(np.float32), part_H.view(np.float32)
    for s in range(len(rows_S)):
        t = rows_S[s]
        if s == 0 or t != rows_S[s - 1]:
            _widen(out_TH[t], sum_H)
        _widen(part_SH[s], part_H)
        _accumulate(sum_float_H, part_float_H)
        _round(sum_H)
        if s == len(rows_S) - 1 or t != rows_S[s + 1]:
            _narrow(sum_H, out_TH[t])
