"""The transition forecaster's kernels against the formulas they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from hetsched.forecast.transition_kernels import CAP, MEAN, PRIOR, SEEN, WIDE, State, empty, fit, weigh
from hetsched.types import FloatArray


def logit(p: FloatArray) -> FloatArray:
    held = p.clip(1e-3, 1 - 1e-3)
    odds: FloatArray = np.log(held / (1 - held))
    return odds


def counted(experts: int, tokens: int) -> State:
    """Two layers: expert a is followed by a and a + 1, from random tokens of two experts."""
    first_TK = np.random.default_rng(0).integers(0, experts - 1, (tokens, 1)) + np.arange(2)
    state = empty(2, experts, 1)
    state.table_6LE[MEAN] = np.random.default_rng(1).uniform(0, 0.5, (2, experts))
    state.alone_LE[:] = logit(state.table_6LE[MEAN])
    fit(np.stack([first_TK, first_TK], axis=1).astype(np.int16), state)
    return state


@pytest.mark.parametrize("active", [1, 5, 30])
@pytest.mark.parametrize("alike", [True, False])
def test_evidence_is_the_sum_of_log_odds(active: int, alike: bool) -> None:
    """Groups of equal shares, broken where shares change and where the product would leave float32's range."""
    state = counted(40, 500)
    active_N = np.arange(active)
    share_N = np.ones(active) if alike else np.arange(active) // 3 / 10
    weigh(state, 0, 0, active_N, share_N)
    alone_E = state.table_6LE[MEAN, 1].clip(1e-3, 1 - 1e-3)
    seen_N1 = state.table_6LE[SEEN, 0, active_N][:, None]
    given_NE = (state.count_LEDE[0, active_N, 0] + PRIOR * alone_E) / (seen_N1 + PRIOR)
    expected_E = share_N @ (logit(given_NE) - logit(alone_E))
    np.testing.assert_allclose(state.ring_RDE[0, 0], expected_E, rtol=1e-4, atol=1e-4 * active)


@pytest.mark.parametrize("experts", [3, WIDE + 1])
def test_counts_are_halved_before_they_overflow(experts: int) -> None:
    """Always the same pair of experts, for longer than a byte or CAP can count: all of them still go together."""
    state = empty(2, experts, 1)
    fit(np.tile(np.array([0, 1], np.int16), (3 * CAP, 2, 1)), state)
    seen = state.table_6LE[SEEN, 0, 0]
    assert min(CAP, 255) / 2 - 1 <= seen <= CAP
    assert (state.count_LEDE[0, :2, 0, :2] >= 0.95 * seen).all()
    assert (state.count_LEDE[0, :2, 0, :2] <= seen + 1).all()
    assert state.count_LEDE[0, :, 0, 2:].sum() == 0
