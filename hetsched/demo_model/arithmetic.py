"""The arithmetic of a build: bfloat16 products where this CPU has fast ones, which are several times faster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional

TRIES = 5
TOKENS, HIDDEN, FFN = 1024, 576, 1536  # of the product that is timed
WORTH_IT = 1.5  # times as fast: CPUs without such instructions emulate bfloat16 at less than the speed of float32


def fast_dtype() -> torch.dtype:
    """bfloat16 if its products take clearly less time here than those of float32, else float32: a moment's timing."""
    slow_s, fast_s = (_product_s(dtype) for dtype in (torch.float32, torch.bfloat16))
    return torch.bfloat16 if slow_s > WORTH_IT * fast_s else torch.float32


@contextmanager
def products_in(dtype: torch.dtype) -> Iterator[None]:
    """Context in which products of float32 may be computed in `dtype`; sums and all else stay float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if dtype is torch.bfloat16 else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _product_s(dtype: torch.dtype) -> float:
    """Seconds of a product, the least of a few tries."""
    x_TH, weight_FH = torch.ones(TOKENS, HIDDEN, dtype=dtype), torch.ones(FFN, HIDDEN, dtype=dtype)
    spent_s = []
    for _ in range(TRIES):
        begin_s = time.perf_counter()
        functional.linear(x_TH, weight_FH)
        spent_s.append(time.perf_counter() - begin_s)
    return min(spent_s)
