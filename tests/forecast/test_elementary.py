"""exp and log over vectors against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from hetsched.forecast.elementary import exp, log


@pytest.mark.parametrize("size", [1, 3, 8, 129])
def test_exp(size: int) -> None:
    """Within two units in the last place, in place too; beyond the range it is held at its ends."""
    x_E = np.random.default_rng(size).normal(0, 40, size)
    out_E = x_E.copy()
    exp(out_E, out_E, np.zeros(size))
    np.testing.assert_allclose(out_E, np.exp(x_E), rtol=5e-16)
    ends = np.array([-1e9, -700.0, 0.0, 700.0, 1e9])
    exp(ends.copy(), out := np.zeros(5), np.zeros(5))
    np.testing.assert_allclose(out, np.exp(ends.clip(-700, 700)), rtol=5e-16)


@pytest.mark.parametrize("size", [1, 3, 8, 129])
def test_log(size: int) -> None:
    """Over the whole range of normal numbers, and near 1, where the error is held against the argument's distance."""
    x_E = np.exp(np.random.default_rng(size).uniform(-700, 700, size))
    log(x_E, out_E := np.zeros(size), np.zeros(size))
    np.testing.assert_allclose(out_E, np.log(x_E), rtol=5e-16, atol=5e-16)
    near_E = 1.0 + np.random.default_rng(size).normal(0, 1e-3, size)
    log(near_E, out_E, np.zeros(size))
    np.testing.assert_allclose(out_E, np.log1p(near_E - 1.0), atol=2e-16)
