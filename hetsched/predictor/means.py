"""Running means of each expert's demand over a trace, as the forecaster has them before every token.

A window of tokens begins from stored means, and a triangle of powers gives those inside it, so that a batch of windows
costs a product of matrices and a long trace a state a window.

Shapes: T tokens, L layers, K top-k, E experts, B windows, W tokens of a window, R means.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..types import Float32Array

WINDOW = 16  # tokens
FAST, SLOW = 0.3, 0.05
WARM, LONG = 20.0, 5000.0  # the long mean moves by 1 / (steps + WARM), at least by 1 / LONG
MEAN_ROW, SLOW_ROW, FAST_ROW = range(3)


def rates_3T(first: int, tokens: int) -> Float32Array:
    """How far each token moves the long, the slow and the fast mean, float32 [3, T], from token number `first`."""
    long_T = 1.0 / np.minimum(np.arange(first + 1, first + tokens + 1) + WARM, LONG)
    return np.stack([long_T, np.full(tokens, SLOW), np.full(tokens, FAST)]).astype(np.float32)


def window_starts(experts_TLK: npt.NDArray[np.int16], num_experts: int) -> npt.NDArray[np.float16]:
    """The three means before the first token of each whole window, float16 [T // W, 3, L, E], from uniform ones."""
    tokens, layers, top_k = experts_TLK.shape
    starts = np.zeros((tokens // WINDOW, 3, layers, num_experts), np.float16)
    mean_3LE = np.full((3, layers, num_experts), top_k / num_experts, np.float32)
    for b in range(len(starts)):
        starts[b] = mean_3LE
        first = b * WINDOW
        kept_3W, moved_3WW = powers(rates_3T(first, WINDOW))
        chosen_WLE = one_hot(experts_TLK[first : first + WINDOW], num_experts)
        last_3W = moved_3WW[:, -1]
        mean_3LE = kept_3W[:, -1, None, None] * mean_3LE + np.einsum("rw,wle->rle", last_3W, chosen_WLE)
    return starts


def powers(rates_3W: Float32Array) -> tuple[Float32Array, Float32Array]:
    """What is left of the means at the window's start after each of its tokens, [3, W], and of each token of it,
    [3, W, W]: at [r, i, j] of token j after token i.
    """
    width = rates_3W.shape[1]
    log_kept_3W = np.cumsum(np.log1p(-rates_3W.astype(float)), axis=1)
    triangle = np.exp(log_kept_3W[:, :, None] - log_kept_3W[:, None, :]) * rates_3W[:, None, :]
    moved = np.where(np.tri(width, dtype=bool), triangle, 0.0)
    return np.exp(log_kept_3W).astype(np.float32), moved.astype(np.float32)


def one_hot(experts_TLK: npt.NDArray[np.int16], num_experts: int) -> Float32Array:
    """1 where an expert was chosen, float32 [T, L, E]."""
    chosen_TLE = np.zeros((*experts_TLK.shape[:2], num_experts), np.float32)
    np.put_along_axis(chosen_TLE, experts_TLK.astype(np.int64), 1.0, axis=2)
    return chosen_TLE
