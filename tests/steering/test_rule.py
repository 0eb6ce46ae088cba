"""SteerMoE's rule on logits, against its formula, and a choice that no bias, group or rounding undoes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetsched.integrations.steered_router import SteeredRouter
from hetsched.steering.file import Forced

EXPERTS, TOP_K = 8, 3
FORCED = Forced((1, 6), (0, 5))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def router(forced: Forced = FORCED) -> SteeredRouter:
    return SteeredRouter(torch.nn.Identity(), forced, EXPERTS, "layer 0")


def papers(logits_TE: Any, forced: Forced) -> Any:
    """The formula: s = log_softmax(z), then max(s) + 0.01 and min(s) - 0.01."""
    z_TE = np.asarray(logits_TE, np.float64)
    s_TE = z_TE - np.log(np.exp(z_TE - z_TE.max(1, keepdims=True)).sum(1, keepdims=True)) - z_TE.max(1, keepdims=True)
    steered_TE = s_TE.copy()
    steered_TE[:, list(forced.activate)] = s_TE.max(1, keepdims=True) + 0.01
    steered_TE[:, list(forced.deactivate)] = s_TE.min(1, keepdims=True) - 0.01
    return steered_TE


def test_a_softmax_sees_the_papers_scores() -> None:
    logits_TE = torch.randn((50, EXPERTS), generator=torch.Generator().manual_seed(0)) * 3
    expected = torch.from_numpy(papers(logits_TE.numpy(), FORCED)).softmax(-1)
    torch.testing.assert_close(router().logits(logits_TE).softmax(-1).double(), expected, rtol=1e-5, atol=1e-7)


def test_others_keep_their_logits() -> None:
    """Also what a router scores beside its experts, which takes no part in the extremes."""
    logits_TC = torch.tensor([[0.5, 1.0, 2.0, -1.0, 0.0, 3.0, 0.1, 0.2, 99.0, -99.0]])
    expected = torch.tensor([[-1.01, 3.01, 2.0, -1.0, 0.0, -1.01, 3.01, 0.2, 99.0, -99.0]])
    torch.testing.assert_close(router().logits(logits_TC), expected)


numbers = st.floats(-3e4, 3e4, width=16)


@given(st.lists(numbers, min_size=EXPERTS, max_size=EXPERTS), st.sampled_from(DTYPES))
def test_forced_logits_are_strictly_extreme(row: list[float], dtype: torch.dtype) -> None:
    """In every dtype, where adding 0.01 alone may change nothing."""
    logits_1E = torch.tensor([row], dtype=dtype)
    found_E, plain_E = router().logits(logits_1E)[0], logits_1E[0]
    assert (found_E[list(FORCED.activate)] > plain_E.max()).all()
    assert (found_E[list(FORCED.deactivate)] < plain_E.min()).all()


scores = st.one_of(st.sampled_from([0.0, 1.0, float("-inf")]), numbers)


@given(st.lists(scores, min_size=EXPERTS, max_size=EXPERTS), st.sampled_from(DTYPES), st.booleans())
def test_the_choice_is_obeyed(row: list[float], dtype: torch.dtype, is_sorted: bool) -> None:
    """Saturated scores, groups left out with minus infinity: on is on, off is off, the best of the others follow."""
    scores_1E = torch.tensor([row], dtype=dtype)
    values, ids = router().choice(scores_1E, TOP_K, dim=-1, sorted=is_sorted)
    chosen = ids[0].tolist()
    assert len(set(chosen)) == TOP_K
    assert set(FORCED.activate) <= set(chosen)
    assert not set(FORCED.deactivate) & set(chosen)
    others = [e for e in range(EXPERTS) if e not in (*FORCED.activate, *FORCED.deactivate)]
    (third,) = set(chosen) - set(FORCED.activate)
    assert scores_1E[0, third] == scores_1E[0, others].max()
    expected = [scores_1E[0].max() if e in FORCED.activate else scores_1E[0, e] for e in chosen]
    assert values[0].tolist() == [float(value) for value in expected]


def test_a_choice_is_what_torch_gives() -> None:
    """Both by name and by position, as routers take it."""
    made = router(Forced((), (2,))).choice(torch.arange(8.0)[None], k=2)
    assert made.indices.tolist() == [[7, 6]]
    values, _ = made
    assert values is made.values


@pytest.mark.parametrize("times", [1, 2])
def test_taking_off_gives_a_forward_of_somebody_else_back(times: int) -> None:
    linear = torch.nn.Linear(4, EXPERTS)
    own = linear.__dict__["forward"] = lambda hidden: torch.nn.functional.linear(hidden, linear.weight).topk(3)
    steered = SteeredRouter(linear, FORCED, EXPERTS, "layer 0")
    steered.put_on()
    assert linear.__dict__["forward"] is not own
    for _ in range(times):
        steered.take_off()
    assert linear.__dict__["forward"] is own
