"""Experts' results weighted and added in one compiled call give the bits of torch weighting and adding one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from hetsched.cpu_kernels.weighted_sum import LONGEST, OneTokenSum, add_weighted, numbers_of

BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
DTYPES = [torch.float32, torch.bfloat16]
H = 67


def one_by_one(
    out_TH: torch.Tensor, part_N: list[torch.Tensor], rows_S: list[int], weights_S: torch.Tensor
) -> torch.Tensor:
    """What eager does: a row's product, rounded, then its addition, rounded; then the next."""
    summed, rows = out_TH.clone(), iter(zip(rows_S, weights_S, strict=True))
    for part in part_N:
        for row in part:
            t, weight = next(rows)
            summed[t] += (row * weight.reshape(1)).to(out_TH.dtype)
    return summed


@pytest.mark.parametrize(("part", "weight", "total"), list(itertools.product(DTYPES, DTYPES, DTYPES)))
@pytest.mark.parametrize("counts", [[1] * 8, [3, 1, 2], [1]])
@pytest.mark.parametrize("afresh", [True, False])
def test_every_rounding_is_torchs(
    part: torch.dtype, weight: torch.dtype, total: torch.dtype, counts: list[int], afresh: bool
) -> None:
    torch.manual_seed(sum(counts))
    size, tokens = sum(counts), 1 if max(counts) == 1 else 4
    rows_S = torch.cat([torch.randperm(tokens)[:count] for count in counts])
    weights_S = torch.rand(size).to(weight)
    part_N = [(torch.randn(n, H) * 10.0 ** torch.randint(-4, 4, (n, H))).to(part) for n in counts]
    out_TH = torch.randn(tokens, H).to(total)
    expected = one_by_one(torch.zeros_like(out_TH) if afresh else out_TH, part_N, rows_S.tolist(), weights_S)
    assert add_weighted(out_TH, part_N, counts, rows_S.numpy(), numbers_of(weights_S), afresh)
    assert torch.equal(out_TH.view(BITS[total]), expected.view(BITS[total]))


@pytest.mark.parametrize(("part", "weight", "total"), list(itertools.product(DTYPES, DTYPES, DTYPES)))
@pytest.mark.parametrize("ids", [[5, 0, 9, 3], [7], [2, 99, 1, 100]])
def test_one_token_is_added_by_ascending_id(
    part: torch.dtype, weight: torch.dtype, total: torch.dtype, ids: list[int]
) -> None:
    """Ids of 99 and more are of no expert here, and have no result."""
    torch.manual_seed(len(ids))
    here = sorted(e for e in ids if e < 99)
    part_N = [(torch.randn(1, H) * 10.0 ** torch.randint(-4, 4, (1, H))).to(part) for _ in here]
    weights_1K = torch.rand(1, len(ids)).to(weight)
    ordered = weights_1K[0, [ids.index(e) for e in here]]
    expected = one_by_one(torch.zeros(1, H, dtype=total), part_N, [0] * len(here), ordered)
    out_1H, made = torch.full((1, H), 7.0, dtype=total), OneTokenSum()
    for _ in range(2):
        assert made.add(out_1H, part_N, torch.tensor([ids]), weights_1K)
        assert torch.equal(out_1H.view(BITS[total]), expected.view(BITS[total]))
    if part is total:  # the sum may take the place of one of them
        assert made.add(part_N[-1], part_N, torch.tensor([ids]), weights_1K)
        assert torch.equal(part_N[-1].view(BITS[total]), expected.view(BITS[total]))


def test_every_bf16_is_added_to_others() -> None:
    """All 65,536 values, with partners of every kind; NaN stays NaN, whichever."""
    every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16)[None]
    torch.manual_seed(0)
    for weight in (1.0, -0.37, 0.0, 3e38):
        weights_S = torch.tensor([weight], dtype=torch.bfloat16)
        out_TH = every[:, torch.randperm(1 << 16)].clone()
        expected = one_by_one(out_TH, [every], [0], weights_S)
        assert add_weighted(out_TH, [every], [1], np.zeros(1, np.int64), numbers_of(weights_S), afresh=False)
        known = ~expected.isnan()
        assert torch.equal(out_TH.isnan(), ~known)
        assert torch.equal(out_TH.view(torch.int16)[known], expected.view(torch.int16)[known])


def test_what_has_no_kernel_is_left_to_torch() -> None:
    rows_S, weights_S = np.zeros(1, np.int64), np.ones(1, np.float32)
    half, single = torch.ones(1, 4, dtype=torch.float16), torch.ones(1, 4)
    out_TH = torch.full((1, 4), 7.0)
    assert not add_weighted(out_TH, [half], [1], rows_S, weights_S)
    assert not add_weighted(out_TH, [single, single.bfloat16()], [1, 1], rows_S.repeat(2), weights_S.repeat(2))
    assert not add_weighted(out_TH, [single], [1], rows_S, weights_S.astype(np.float16))
    assert bool((out_TH == 7).all())
    transposed = torch.ones(4, 2).t()
    assert not add_weighted(torch.empty(2, 4), [transposed], [2], rows_S.repeat(2), weights_S.repeat(2))
    ids_1K = torch.zeros(1, 1, dtype=torch.int64)
    assert not OneTokenSum().add(out_TH, [half], ids_1K, torch.ones(1, 1))
    assert not OneTokenSum().add(out_TH, [single], ids_1K.int(), torch.ones(1, 1))
    assert bool((out_TH == 7).all())
    long = torch.ones(1, LONGEST + 1)
    assert not add_weighted(torch.empty(1, LONGEST + 1), [long], [1], rows_S, weights_S)
