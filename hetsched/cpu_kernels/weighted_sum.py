"""Experts' results weighted by the router and added one after another, as eager adds them, in one compiled call.

Each product and each addition rounds where torch's does: a product to the wider of its operands' dtypes, then to the
sum's; an addition to the sum's. Results are read where each expert left them. Shapes: T tokens, K top-k, N experts in
the order of their addition, S rows of all of them, H hidden.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from ..jit import bound, compiled_lean, source_stamp, specialised
from ..jit.by_address import pointer_to
from ..jit.c_call import CFunction
from ..types import IntArray

if TYPE_CHECKING:  # names that jit.bound and jit.specialised bind below

    def part_wide(number: Any) -> Any: ...
    def weight_wide(number: Any) -> Any: ...
    def product_rounded(number: Any) -> Any: ...
    def sum_wide(number: Any) -> Any: ...
    def sum_rounded(number: Any) -> Any: ...
    def narrow(number: Any) -> Any: ...
    def part_pointer(address: int) -> Any: ...
    def weight_pointer(address: int) -> Any: ...
    def sum_pointer(address: int) -> Any: ...
    def id_pointer(address: int) -> Any: ...
    def add_row(out_H: Any, part_H: Any, weight: Any) -> None: ...


Numbers = npt.NDArray[Any]
SOURCES = "hetsched.cpu_kernels.weighted_sum", "hetsched.jit.by_address"
_HALF, _WEIGHTS = torch.bfloat16, (np.dtype(np.float32), np.dtype(np.uint16))
HEAD, FEW = 6, 32  # words before the addresses of results, and results that there is room for at least
LONGEST = 1 << 17  # numbers of all rows; with more of them torch's threads are sooner done
HIGH, NAN = np.uint32(0xFFFF0000), np.uint32(0x7FC00000)
HALF, ODD, PLACES = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)
MAGNITUDE, INFINITY = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)


@cache
def make_ready(dtype: torch.dtype) -> None:
    """Compile now what the first layers of a model of this dtype would else wait for, or read it from disk."""
    with torch.inference_mode(False):
        part, weights_TK, out_TH = (torch.zeros((1, 1), dtype=dtype) for _ in range(3))
        add_weighted(out_TH, [part], [1], np.zeros(1, np.int64), numbers_of(weights_TK)[0])
        OneTokenSum().add(out_TH, [part], torch.zeros((1, 1), dtype=torch.int64), weights_TK)


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
    if weights_S.dtype not in _WEIGHTS or rows_S.size * out_TH.shape[1] > LONGEST or not _are_alike(part_N):
        return False
    weights_dtype = _HALF if weights_S.dtype == np.uint16 else torch.float32
    add = _kernel(_adding, part_N[0].dtype, weights_dtype, out_TH.dtype)
    if add is None:
        return False
    address_N = np.array([part.data_ptr() for part in part_N], np.int64)
    add(numbers_of(out_TH), address_N, np.array(counts, np.int64), rows_S, weights_S, afresh)
    return True


class OneTokenSum:
    """The same for one token, in a call that reads a few words. For one thread at a time."""

    def __init__(self) -> None:
        self._words, self._view = _room(0)
        self._rows = np.zeros(0, np.float32)  # where the sum grows
        self._dtypes: tuple[torch.dtype, ...] = ()  # of results, router weights and sum
        self._add: CFunction | None = None  # for these; None where there is no kernel

    def add(
        self, out_1H: torch.Tensor, part_N: Sequence[torch.Tensor], ids_1K: torch.Tensor, weights_1K: torch.Tensor
    ) -> bool:
        """out_1H = the results of N different experts, weighted, by ascending id; False as in add_weighted.

        Ids are the host's int64; those beyond the N smallest are of no expert here. `out_1H` may be one of the results.
        """
        size, top_k, hidden = len(part_N), ids_1K.numel(), out_1H.numel()
        if size * hidden > LONGEST or not (weights_1K.is_contiguous() and ids_1K.is_contiguous()):
            return False
        dtype, addresses = part_N[0].dtype, [out_1H.data_ptr(), ids_1K.data_ptr(), weights_1K.data_ptr()]
        for part in part_N:
            if part.dtype is not dtype or not part.is_contiguous():
                return False
            addresses.append(part.data_ptr())
        dtypes = dtype, weights_1K.dtype, out_1H.dtype
        if dtypes != self._dtypes or HEAD + size > len(self._words) or hidden > len(self._rows):
            self._make_room(dtypes, max(size, FEW), hidden)
        if self._add is None or ids_1K.dtype is not torch.int64:
            return False
        _form(size).pack_into(self._view, 0, size, top_k, hidden, *addresses)
        self._add.call()
        return True

    def _make_room(self, dtypes: tuple[torch.dtype, ...], size: int, hidden: int) -> None:
        (self._words, self._view), self._rows, self._dtypes = _room(size), np.zeros(hidden, np.float32), dtypes
        kernel = _kernel(_adding_one_token, *dtypes)
        self._add = kernel and CFunction((kernel, (self._words, self._rows.ctypes.data)))


@cache
def _form(size: int) -> struct.Struct:
    return struct.Struct(f"{HEAD + size}q")


def _room(size: int) -> tuple[IntArray, memoryview]:
    words = np.zeros(HEAD + size, np.int64)
    return words, words.data


def _are_alike(part_N: Sequence[torch.Tensor]) -> bool:
    """Whether all results have one dtype and lie whole."""
    dtype = part_N[0].dtype
    return all([part.dtype is dtype and part.is_contiguous() for part in part_N])  # noqa: C419  a generator costs more


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


def _add_row(out_H: Any, part_H: Any, weight: Any) -> None:
    """A row times its weight, added."""
    wide = weight_wide(weight)
    for h in range(len(out_H)):
        out_H[h] = narrow(sum_rounded(sum_wide(out_H[h]) + product_rounded(part_wide(part_H[h]) * wide)))


def _adding(stamp: int) -> Any:
    def add(out_TH: Any, address_N: Any, count_N: Any, rows_S: Any, weights_S: Any, afresh: bool) -> None:
        assert stamp >= 0
        hidden, s = out_TH.shape[1], 0
        for t in range(out_TH.shape[0] if afresh else 0):
            for h in range(hidden):
                out_TH[t, h] = 0
        for n in range(len(address_N)):
            part_CH = carray(part_pointer(address_N[n]), (count_N[n], hidden))
            for i in range(count_N[n]):
                add_row(out_TH[rows_S[s]], part_CH[i], weights_S[s])
                s += 1

    return add


def _adding_one_token(stamp: int) -> Any:
    def add(words_A: Any, growing: int) -> None:
        """N, K, H; then addresses of the sum, the ids, their weights, and the results by ascending id."""
        assert stamp >= 0
        size, top_k, hidden = words_A[0], words_A[1], words_A[2]
        sum_H, out_H = carray(sum_pointer(growing), hidden), carray(sum_pointer(words_A[3]), hidden)
        ids_K = carray(id_pointer(words_A[4]), top_k)
        weight_K = carray(weight_pointer(words_A[5]), top_k)
        for h in range(hidden):
            sum_H[h] = 0
        before = np.int64(-1)
        for n in range(size):
            k = -1
            for i in range(top_k):
                if ids_K[i] > before and (k < 0 or ids_K[i] < ids_K[k]):
                    k = i
            before = ids_K[k]
            add_row(sum_H, carray(part_pointer(words_A[HEAD + n]), hidden), weight_K[k])
        for h in range(hidden):
            out_H[h] = sum_H[h]

    return add


@cache
def _kernel(template: Any, part: torch.dtype, weight: torch.dtype, total: torch.dtype) -> Any:
    """The kernel for results, router weights and a sum of these dtypes; None where there is none."""
    if any(dtype not in (torch.float32, _HALF) for dtype in (part, weight, total)):
        return None
    halves = part_is_half, weight_is_half, sum_is_half = [dtype is _HALF for dtype in (part, weight, total)]
    pointers = [pointer_to(types.uint16 if is_half else types.float32) for is_half in halves]
    name = "".join("fb"[half] for half in halves)
    add_row = bound(
        name,
        _add_row,
        part_wide=_widened if part_is_half else _same,
        weight_wide=_widened if weight_is_half else _same,
        product_rounded=_rounded if sum_is_half or (part_is_half and weight_is_half) else _same,
        sum_wide=_widened if sum_is_half else _same,
        sum_rounded=_rounded if sum_is_half else _same,
        narrow=_narrowed if sum_is_half else _same,
    )
    stamp, named = source_stamp(*SOURCES), ("part_pointer", "weight_pointer", "sum_pointer")
    given = dict(zip(named, pointers, strict=True), id_pointer=pointer_to(types.int64), add_row=add_row)
    return specialised(name, template, stamp, **given)
