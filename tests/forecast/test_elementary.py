"""exp and log over vectors against NumPy's in float64."""

from __future__ import annotations

import numpy as np
import pytest

from hetsched.forecast.elementary import exp, log
from hetsched.types import Float32Array


def zeros(size: int) -> Float32Array:
    return np.zeros(size, np.float32)


@pytest.mark.parametrize("size", [1, 3, 8, 129])
def test_exp(size: int) -> None:
    """Within a few units in the last place, in place too; beyond the range it is held at its ends."""
    x_E = np.random.default_rng(size).normal(0, 20, size).clip(-87, 87).astype(np.float32)
    out_E = x_E.copy()
    exp(out_E, out_E, zeros(size))
    np.testing.assert_allclose(out_E, np.exp(x_E.astype(float)), rtol=3e-7)
    ends = np.array([-1e9, -87.0, 0.0, 87.0, 1e9], np.float32)
    exp(ends.copy(), out := zeros(5), zeros(5))
    np.testing.assert_allclose(out, np.exp(ends.astype(float).clip(-87, 87)), rtol=3e-7)


@pytest.mark.parametrize("size", [1, 3, 8, 129])
def test_log(size: int) -> None:
    """Over the whole range of normal numbers, and near 1, where the error is held against the argument's distance."""
    x_E = np.exp(np.random.default_rng(size).uniform(-87, 87, size)).astype(np.float32)
    log(x_E, out_E := zeros(size), zeros(size))
    np.testing.assert_allclose(out_E, np.log(x_E.astype(float)), rtol=3e-7, atol=1e-7)
    near_E = (1.0 + np.random.default_rng(size).normal(0, 1e-3, size)).astype(np.float32)
    log(near_E, out_E, zeros(size))
    np.testing.assert_allclose(out_E, np.log1p(near_E.astype(float) - 1.0), atol=2e-9)
