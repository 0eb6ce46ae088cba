"""How good forecasts are: of the experts a layer asks for, and of the probabilities themselves.

Shapes: T tokens, L layers, K top-k, E experts, B bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..types import FloatArray
from .means import one_hot

BINS = 20  # of probability, equally wide, for the calibration error
LEAST = 1e-6  # probabilities in the log score are held between this and one less it


class Scores:
    """Sums over tokens and layers; a forecast's guesses are its top_k likeliest experts.

    With as many guesses as experts are asked for, recall, precision and the positive class's F1 are one number.
    """

    def __init__(self, layers: int, experts: int) -> None:
        self.tokens = 0
        self._experts = experts
        self._hits_L, self._asked_L, self._guesses = np.zeros(layers), np.zeros(layers), 0
        self._log_score = 0.0
        self._bins_3B = np.zeros((3, BINS))  # forecasts, their sum, how many came true

    def add(self, p_TLE: FloatArray, experts_TLK: npt.NDArray[np.int16]) -> None:
        """Count forecasts and what was then asked for."""
        asked_TLE = one_hot(experts_TLK, self._experts)
        top_k = min(experts_TLK.shape[2], self._experts)
        guessed_TLK = np.argsort(-p_TLE, axis=2, kind="stable")[:, :, :top_k]
        self._hits_L += np.take_along_axis(asked_TLE, guessed_TLK, axis=2).sum(axis=(0, 2))
        self._asked_L += asked_TLE.sum(axis=(0, 2))
        self._guesses += guessed_TLK.size
        self.tokens += len(experts_TLK)
        held_TLE = p_TLE.clip(LEAST, 1 - LEAST)
        self._log_score += float(np.log(np.where(asked_TLE > 0, held_TLE, 1 - held_TLE)).sum())
        bin_F = np.minimum((p_TLE * BINS).astype(np.int64), BINS - 1).ravel()
        for row, weight_F in zip(self._bins_3B, (None, p_TLE.ravel(), asked_TLE.ravel()), strict=True):
            row += np.bincount(bin_F, weight_F, BINS)

    def figures(self) -> dict[str, Any]:
        """`log_score`: nats a layer's forecast, 0 at best. `calibration_error`: mean distance of probability and share
        that came true, over bins by their forecasts.
        """
        hits, asked, total = float(self._hits_L.sum()), float(self._asked_L.sum()), float(self._bins_3B[0].sum())
        wrong, missed = self._guesses - hits, asked - hits
        positive = 2 * hits / max(2 * hits + wrong + missed, 1)
        negative = 2 * (total - hits - wrong - missed)
        forecasts_B, sum_B, true_B = self._bins_3B
        layers = len(self._hits_L)
        return {
            "tokens": self.tokens,
            "recall": hits / max(asked, 1),
            "precision": hits / max(self._guesses, 1),
            "f1_positive": positive,
            "f1_macro": (positive + negative / max(negative + wrong + missed, 1)) / 2,
            "log_score": self._log_score / max(self.tokens * layers, 1),
            "calibration_error": float(np.abs(sum_B - true_B).sum() / max(forecasts_B.sum(), 1)),
            "recall_by_layer": (self._hits_L / np.maximum(self._asked_L, 1)).tolist(),
        }
