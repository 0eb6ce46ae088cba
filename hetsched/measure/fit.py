"""Fit of a copy engine: seconds = latency + bytes / rate over the sizes measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class LinkFit(NamedTuple):
    """latency_s + bytes / bytes_per_s; `residual`: root mean square of predicted / measured - 1."""

    latency_s: float
    bytes_per_s: float
    residual: float


def fit_link(sizes_bytes: Sequence[int], seconds: Sequence[float]) -> LinkFit:
    """Least squares on relative errors, so that small copies count as much as large ones; latency at least 0.

    Raises ValueError with fewer than two sizes.
    """
    sizes, times = np.asarray(sizes_bytes, float), np.asarray(seconds, float)
    if len(sizes) < 2:
        raise ValueError("a latency and a rate need at least two sizes")
    columns = np.stack([np.ones_like(sizes), sizes], axis=1) / times[:, None]
    latency, slope = np.linalg.lstsq(columns, np.ones_like(times), rcond=None)[0]
    if latency < 0.0:
        latency, slope = 0.0, 1.0 / np.median(sizes / times)
    residual = float(np.sqrt(np.mean(((latency + slope * sizes) / times - 1) ** 2)))
    return LinkFit(float(latency), float(1.0 / slope), residual)
