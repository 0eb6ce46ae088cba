"""Risk differences and their standard errors, against arithmetic prompt by prompt and against repeated draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetsched.errors import InputError
from hetsched.steering.difference import Activations, Difference, difference
from hetsched.steering.strongest import strongest
from hetsched.types import FloatArray

TOKENS = st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1)), min_size=2, max_size=12)


def one_expert(prompts: list[tuple[int, int]]) -> Activations:
    """(chosen, tokens) of each prompt, for one expert of one layer."""
    made = Activations(1, 1)
    for chosen, tokens in prompts:
        made.add(np.array([[chosen]]), tokens)
    return made


def test_two_prompts_by_hand() -> None:
    """Rates 4/10 and 1/10; prompts lie 1 off their set's rate in A, 1/2 in B: variances 2 * 2 / 100, 2 * 0.5 / 100."""
    found = difference(one_expert([(3, 5), (1, 5)]), one_expert([(0, 5), (1, 5)]))
    assert found.risk_LE[0, 0] == pytest.approx(0.3)
    assert found.error_LE[0, 0] == pytest.approx(((2 * 2 + 2 * 0.5) / 100) ** 0.5)


@given(TOKENS)
def test_sums_give_what_prompts_give(drawn: list[tuple[int, float]]) -> None:
    """The variance from running sums is the formula over the prompts themselves."""
    prompts = [(round(share * tokens), tokens) for tokens, share in drawn]
    total = sum(tokens for _, tokens in prompts)
    rate = sum(chosen for chosen, _ in prompts) / total
    apart = sum((chosen - rate * tokens) ** 2 for chosen, tokens in prompts)
    n = len(prompts)
    made = one_expert(prompts)
    assert made.rate_LE[0, 0] == pytest.approx(rate)
    assert made.variance_LE[0, 0] == pytest.approx(n / (n - 1) * apart / total**2, abs=1e-12)


def test_the_error_is_how_much_repeated_draws_differ() -> None:
    """Prompts whose tokens resemble each other: a binomial error would be far too small, this one is right."""
    random = np.random.default_rng(0)
    risks, errors = [], []
    for _ in range(400):
        sets = []
        for mean in (0.3, 0.3):
            lengths = random.integers(5, 40, 30)
            chosen = random.binomial(lengths, random.beta(6 * mean, 6 * (1 - mean), 30))
            sets.append(one_expert(list(zip(chosen.tolist(), lengths.tolist(), strict=True))))
        found = difference(*sets)
        risks.append(found.risk_LE[0, 0])
        errors.append(found.error_LE[0, 0])
    spread, binomial = float(np.std(risks)), (2 * 0.3 * 0.7 / (30 * 22)) ** 0.5
    assert float(np.mean(errors)) == pytest.approx(spread, rel=0.1)
    assert spread > 1.5 * binomial


def test_one_prompt_has_no_error() -> None:
    with pytest.raises(InputError, match="1 prompt"):
        difference(one_expert([(1, 2)]), one_expert([(1, 2), (1, 2)]))


def known(risk_LE: FloatArray) -> Difference:
    zeros = np.zeros_like(risk_LE)
    return Difference(zeros, zeros, risk_LE, zeros + 0.1)


def test_rank_is_by_absolute_value() -> None:
    found = known(np.array([[0.1, -0.5, 0.0], [0.4, 0.5, -0.2]]))
    assert found.ranked() == [(0, 1), (1, 1), (1, 0), (1, 2), (0, 0)]
    assert found.beyond(3.0) == 3


def test_the_strongest_are_forced_as_far_as_a_router_can() -> None:
    """Three of four experts would be on in layer 0, where a token chooses two: the weakest is passed over."""
    found = known(np.array([[0.9, 0.8, 0.7, -0.1], [-0.6, -0.5, -0.4, 0.3]]))
    forced = strongest(found, top=6, top_k=2)
    assert forced[0] == ((0, 1), (3,))
    assert forced[1] == ((3,), (0, 1))
    assert strongest(found, top=1, top_k=2) == {0: ((0,), ())}
    assert strongest(known(np.zeros((2, 4))), 5, 2) == {}
