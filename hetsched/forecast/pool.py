"""Pool: weights of a logarithmic opinion pool that climb its log score, by Newton steps with forgetting.

With x the members' log-odds and 1, y what came and p the pool's forecast, a layer's log score has the gradient
sum over e of (y - p) x and the curvature sum over e of p (1 - p) x x'. What was seen before is kept as information, a
matrix A and the vector A w that add up over layers, runs and machines (a Laplace approximation of the posterior, as in
online Bayesian logistic regression): each layer adds its curvature C to A, and C w + gradient to A w.

Shapes: E experts, M members; N = M + 1, the constant first.
"""

from __future__ import annotations

import numpy as np

from ..types import FloatArray
from . import Learned

LEAST = 1e-4  # probabilities are held between this and one less it
STRENGTH = 200.0  # curvature that the first belief, equal weights, counts for
FADING = 0.9998  # of information, a layer


def logit(p: FloatArray) -> FloatArray:
    """Log-odds of probabilities."""
    held = np.clip(p, LEAST, 1.0 - LEAST)
    odds: FloatArray = np.log(held / (1.0 - held))
    return odds


class Pool:
    """`weight_M` float [N]: the constant, and a weight for each member."""

    def __init__(self, members: int) -> None:
        self.weight_M: FloatArray = np.append(0.0, np.full(members, 1.0 / members))
        self._first_NN = STRENGTH * np.eye(members + 1)
        self._first_N = self._first_NN @ self.weight_M
        self._seen_NN = np.zeros_like(self._first_NN)
        self._seen_N = np.zeros_like(self._first_N)

    def p(self, odds_MLE: FloatArray) -> FloatArray:
        """The pool's probabilities, of any shape behind the first."""
        pooled = np.tensordot(self.weight_M[1:], odds_MLE, axes=1) + self.weight_M[0]
        p: FloatArray = 1.0 / (1.0 + np.exp(-pooled))
        return p

    def learn(self, odds_ME: FloatArray, came_E: FloatArray) -> None:
        """One layer: what the members had said, and what came."""
        p_E, x_NE = self.p(odds_ME), np.vstack([np.ones_like(came_E), odds_ME])
        curved_NN = (x_NE * (p_E * (1.0 - p_E))) @ x_NE.T
        self._seen_NN = FADING * self._seen_NN + curved_NN
        self._seen_N = FADING * self._seen_N + curved_NN @ self.weight_M + x_NE @ (came_E - p_E)
        self._settle()

    def drop(self, m: int) -> None:
        """Without a member: the others' weights as if it had said even odds, until they have learned better."""
        kept = np.delete(np.arange(len(self.weight_M)), m + 1)
        self.weight_M = self.weight_M[kept]
        square = np.ix_(kept, kept)
        self._first_NN, self._seen_NN = self._first_NN[square], self._seen_NN[square]
        self._first_N, self._seen_N = self._first_N[kept], self._seen_NN @ self.weight_M

    def learned(self) -> Learned:
        """Information, which adds up."""
        return {"seen_NN": self._seen_NN, "seen_N": self._seen_N}

    def recall(self, learned: Learned) -> None:
        """Information from elsewhere."""
        seen_NN, seen_N = (np.array(learned.get(name, 0.0)) for name in ("seen_NN", "seen_N"))
        if seen_NN.shape == self._seen_NN.shape and seen_N.shape == self._seen_N.shape:
            self._seen_NN, self._seen_N = seen_NN, seen_N
            self._settle()

    def _settle(self) -> None:
        self.weight_M[:] = np.linalg.solve(self._first_NN + self._seen_NN, self._first_N + self._seen_N)
