"""One product of a model's dense part in as little Python as there can be: numbers of its dtype in and out.

Sums are fp32 and rounded once, so that the result is torch's within rounding. Shapes: T tokens, N output columns,
K input columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...formats.plain import Bf16, Fp16
from ...packed import PackedWeight
from ..numba_kernels import LOCK, _launch_pool
from .blocks import arranged
from .kernels import PackedKernel
from .lanes import host_features
from .matrix import PackedMatrix, packed_matrix, serves
from .records import record_of

DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
PLAIN: dict[torch.dtype, Any] = {torch.bfloat16: Bf16(), torch.float16: Fp16()}
CONVERTING = {"f16c", "avx512f", "neon"}  # CPUs that convert fp16 by themselves


def matrix_of(weight: torch.Tensor | None) -> PackedMatrix | None:
    """Where a weight lies, if a kernel can read it there: contiguous, on the CPU, in half precision or packed."""
    if isinstance(weight, PackedWeight):
        return _packed(weight)
    if weight is None or weight.dtype not in PLAIN or type(weight.data) is not torch.Tensor:
        return None
    format_, shape = PLAIN[weight.dtype], (weight.shape[0], weight.shape[-1])
    fits = weight.ndim == 2 and weight.is_cpu and weight.is_contiguous() and weight.numel()
    converts = weight.dtype is not torch.float16 or host_features() & CONVERTING
    if not fits or not converts or not serves(format_, shape):
        return None
    return packed_matrix(format_, {"weights": weight.detach()}, shape)


def _packed(weight: PackedWeight) -> PackedMatrix | None:
    known = weight.is_cpu and weight.dtype in DTYPES and serves(weight.format, weight.matrix_shape)
    return packed_matrix(weight.format, weight.parts(), weight.matrix_shape) if known else None


class DenseProduct:
    """x times a transposed matrix. Deterministic: a token's result has the same bits whatever tokens share the call.

    `dtype`: of x, bias and result. `rounded`: see PackedKernel, lossy.
    """

    __slots__ = ("_kernel", "_place", "_record", "_set_threads", "_threads", "_words", "matrix")

    def __init__(
        self, matrix: PackedMatrix, dtype: torch.dtype, threads: int | None = None, rounded: bool = False
    ) -> None:
        from . import dense_loops, loops, stages  # they compile, so only where it is wanted

        self.matrix, self._threads = matrix, threads or torch.get_num_threads()
        alone = self._threads == 1
        self._kernel: Any = dense_loops.multiplying_dense(DTYPES[dtype], alone)
        self._set_threads: Any = None if alone else stages.set_num_threads
        unpacker = matrix.reader(rounded)
        self._record = record = record_of(unpacker, matrix.shape[1])
        where = matrix.blocks, matrix.scales, matrix.row_bytes, matrix.scale_row_bytes
        reader: int = loops.reading(unpacker, host_features())
        words = reader, *where, *matrix.shape, record.num_bytes, *record.how
        self._words = np.array(words, np.int64)
        self._place: int = self._words.ctypes.data
        _launch_pool()

    def into(self, out_TN: torch.Tensor, input_TK: torch.Tensor, bias_N: torch.Tensor | None) -> None:
        """Write x times the transposed matrix, and the bias, into `out_TN`: all contiguous, of the kernel's dtype."""
        tokens = input_TK.numel() // self.matrix.shape[1]
        bias = 0 if bias_N is None else bias_N.data_ptr()
        with LOCK:
            if self._set_threads is not None:
                self._set_threads(self._threads)
            self._kernel(self._place, bias, input_TK.data_ptr(), out_TN.data_ptr(), tokens, self._threads)


class ManyTokens:
    """Products of packed matrices with more tokens than are worth unpacking in registers: a block of rows at a time.

    `half`: weights are rounded to bf16 activations' own dtype, as the unpacked model's are, and multiplied in it; else
    in fp32. Lossless both: rounding to what the model computes with.
    """

    def __init__(self, kernel: PackedKernel, half: bool) -> None:
        self.few, self.half = kernel.few, half
        self._kernel = kernel

    def __call__(self, input_TK: torch.Tensor, matrix: PackedMatrix) -> torch.Tensor:
        """x times the transposed matrix, in the dtype of x: [T, N]."""
        if not self.half or input_TK.dtype is not torch.bfloat16:
            return self._kernel.linear(input_TK, matrix)
        return self._kernel.in_blocks(arranged(input_TK, matrix.unpacker), matrix)
