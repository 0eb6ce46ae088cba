"""Rows added in one compiled call give the bits that torch gives adding one after another."""

from __future__ import annotations

import pytest
import torch

from hetsched.cpu_kernels.ordered_sum import add_rows

DTYPES = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


def one_by_one(out_TH: torch.Tensor, rows_S: torch.Tensor, part_SH: torch.Tensor) -> torch.Tensor:
    """What eager does: one row's addition, rounded, then the next."""
    summed = out_TH.clone()
    for s, t in enumerate(rows_S.tolist()):
        summed[t] = summed[t] + part_SH[s]
    return summed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [[0, 0, 0, 0], [0, 1, 2, 1, 1, 0, 2], [3, 3, 0, 1]])
def test_sums_round_as_torch_does(dtype: torch.dtype, rows: list[int]) -> None:
    torch.manual_seed(len(rows))
    out_TH = torch.randn(4, 67).to(dtype)
    part_SH = (torch.randn(len(rows), 67) * 10.0 ** torch.randint(-4, 4, (len(rows), 67))).to(dtype)
    rows_S = torch.tensor(rows)
    expected = one_by_one(out_TH, rows_S, part_SH)
    assert add_rows(out_TH, rows_S, part_SH)
    assert torch.equal(out_TH.view(DTYPES[dtype]), expected.view(DTYPES[dtype]))


def test_every_bf16_is_added_to_others() -> None:
    """All 65,536 values, with partners of every kind; NaN stays NaN, whichever."""
    every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16)[None]
    torch.manual_seed(0)
    for _ in range(8):
        out_TH, rows_S = every[:, torch.randperm(1 << 16)].clone(), torch.zeros(1, dtype=torch.int64)
        expected = one_by_one(out_TH, rows_S, every)
        assert add_rows(out_TH, rows_S, every)
        known = ~expected.isnan()
        assert torch.equal(out_TH.isnan(), ~known)
        assert torch.equal(out_TH.view(torch.int16)[known], expected.view(torch.int16)[known])


def test_other_dtypes_are_left_to_torch() -> None:
    out_TH = torch.zeros(1, 4, dtype=torch.float16)
    assert not add_rows(out_TH, torch.zeros(1, dtype=torch.int64), torch.ones(1, 4, dtype=torch.float16))
    assert not out_TH.any()
