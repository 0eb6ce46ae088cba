"""Experts' results weighted by the router and added one after another, as eager adds them, in one compiled call.

Each product and each addition rounds where torch's does: a product to the wider of its operands' dtypes, then to the
sum's; an addition to the sum's. Results are read where each expert left them. Shapes: T tokens, N experts in the order
of their addition, S rows of all of them, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import carray, types
from numba.extending import intrinsic

from ..jit import compiled_lean, source_stamp, specialised
from ..types import IntArray

Numbers = npt.NDArray[Any]
BITS = {torch.float32: torch.float32, torch.bfloat16: torch.uint16}  # what NumPy and numba know them as
_HALF, _WEIGHTS = torch.bfloat16, (np.dtype(np.float32), np.dtype(np.uint16))
LONGEST = 1 << 17  # numbers of all rows; with more of them torch's threads are sooner done
ZERO_BITS, HIGH, NAN = np.uint32(0), np.uint32(0xFFFF0000), np.uint32(0x7FC00000)
HALF, ODD, PLACES = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)
MAGNITUDE, INFINITY = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)


@cache
def make_ready(dtype: torch.dtype) -> None:
    """Compile now what the first layer of a model of this dtype would else wait for, or read it from disk."""
    with torch.inference_mode(False):
        part, weights_S = torch.zeros((1, 1), dtype=dtype), numbers_of(torch.ones(1, dtype=dtype))
        add_weighted(torch.empty((1, 1), dtype=dtype), [part], [1], np.zeros(1, np.int64), weights_S)


def numbers_of(tensor: torch.Tensor) -> Numbers:
    """A host tensor as an array on the same memory; bf16 as its bits."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype is torch.bfloat16 else tensor.numpy()


def add_weighted(
    out_TH: torch.Tensor,
    part_N: Sequence[torch.Tensor],
    counts: Sequence[int],
    rows_S: IntArray,
    weights_S: Numbers,
    afresh: bool = True,
) -> bool:
    """out_TH = (or +=) the sum of all rows times their weights, in order; False where torch's bits cannot be had here.

    Expert n has the next counts[n] rows, contiguous in part_N[n]; `rows_S`: their tokens; `weights_S` as numbers_of
    gives them. In half precision a token's sum must get no two rows of one expert.
    """
    part_dtype = part_N[0].dtype
    if not (part_dtype in BITS and out_TH.dtype in BITS and weights_S.dtype in _WEIGHTS):
        return False
    if rows_S.size * out_TH.shape[1] > LONGEST:
        return False
    held = []
    for part in part_N:
        if part.dtype is not part_dtype:
            return False
        held.append(part if part.is_contiguous() else part.contiguous())
    add = _kernel(part_dtype is _HALF, weights_S.dtype == _WEIGHTS[1], out_TH.dtype is _HALF)
    count_N = one_each(len(held)) if len(held) == rows_S.size else np.array(counts, np.int64)
    address_N = np.array([part.data_ptr() for part in held], np.int64)
    add(numbers_of(out_TH), address_N, count_N, rows_S, weights_S, afresh)
    return True


@cache
def one_each(size: int) -> IntArray:
    """So many ones. Nobody writes to them."""
    return np.ones(size, np.int64)


@intrinsic  # type: ignore[untyped-decorator]
def _bits(context: Any, number: Any) -> Any:
    """A float32's bits."""
    return types.uint32(types.float32), _as(ir.IntType(32))


@intrinsic  # type: ignore[untyped-decorator]
def _number(context: Any, bits: Any) -> Any:
    """The float32 with these bits."""
    return types.float32(types.uint32), _as(ir.FloatType())


def _as(kind: Any) -> Any:
    return lambda target, builder, signature, arguments: builder.bitcast(arguments[0], kind)


def _pointer_to(kind: Any) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def pointer(context: Any, address: Any) -> Any:
        def build(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], target.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), build

    return pointer


@compiled_lean
def _same(number: Any) -> Any:
    """A float32 as it is."""
    return number


@compiled_lean
def _widened(bits: Any) -> Any:
    """A bf16 is the upper half of a float32."""
    return _number(np.uint32(bits) << PLACES)


@compiled_lean
def _rounded(number: Any) -> Any:
    """To the nearest bf16, a tie to the even; NaN stays NaN."""
    bits = _bits(number)
    near = (bits + HALF + ((bits >> PLACES) & ODD)) & HIGH
    return _number(NAN if (bits & MAGNITUDE) > INFINITY else near)


@compiled_lean
def _narrowed(number: Any) -> Any:
    """The bf16 of a float32 that is one."""
    return np.uint16(_bits(number) >> PLACES)


def _adding(stamp: int) -> Any:
    def add(out_TH: Any, address_N: Any, count_N: Any, rows_S: Any, weights_S: Any, afresh: bool) -> None:
        assert stamp >= 0
        hidden, s = out_TH.shape[1], 0
        for t in range(out_TH.shape[0] if afresh else 0):
            for h in range(hidden):
                out_TH[t, h] = 0
        for n in range(len(address_N)):
            part_CH = carray(part_pointer(address_N[n]), (count_N[n], hidden))  # type: ignore[name-defined]  # noqa: F821
            for i in range(count_N[n]):
                part_H, out_H, weight = part_CH[i], out_TH[rows_S[s]], weight_wide(weights_S[s])  # type: ignore[name-defined]  # noqa: F821
                for h in range(hidden):
                    product = product_rounded(part_wide(part_H[h]) * weight)  # type: ignore[name-defined]  # noqa: F821
                    out_H[h] = narrow(sum_rounded(sum_wide(out_H[h]) + product))  # type: ignore[name-defined]  # noqa: F821
                s += 1

    return add


@cache
def _kernel(part_is_half: bool, weight_is_half: bool, sum_is_half: bool) -> Any:
    """The kernel for bf16 (half) or fp32 results, router weights, and sum."""
    name = "".join("fb"[half] for half in (part_is_half, weight_is_half, sum_is_half))
    return specialised(
        name,
        _adding,
        source_stamp("hetsched.cpu_kernels.weighted_sum"),
        part_pointer=_pointer_to(types.uint16 if part_is_half else types.float32),
        part_wide=_widened if part_is_half else _same,
        weight_wide=_widened if weight_is_half else _same,
        product_rounded=_rounded if sum_is_half or (part_is_half and weight_is_half) else _same,
        sum_wide=_widened if sum_is_half else _same,
        sum_rounded=_rounded if sum_is_half else _same,
        narrow=_narrowed if sum_is_half else _same,
    )
