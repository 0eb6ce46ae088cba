"""Kernels of the transition forecaster.

Shapes: L layers, E experts, D distances, T tokens, K top-k, N active experts, R ring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..board import ACTIVE, LAYER, TOKENS, Board
from ..jit import compiled_and_kept, compiled_lean, source_stamp
from ..types import FloatArray, IntArray
from .elementary import exp, log

RING = 4  # layers back whose evidence is kept apart: the nearest tells most
LEAST = 1e-3  # probabilities are held within LEAST..1-LEAST
REFRESH = 8  # a well-known row's log-odds are recomputed once in so many updates
PRIOR = 4.0  # observations that the layer's own frequency counts for
CAP = 2000.0  # observations after which old ones begin to be forgotten
Float32 = npt.NDArray[np.float32]


# Rows of a table [row, L, E]: demand per token averaged over ever shorter times, how often each expert was active, its
# log-odds from its own past, and the forecast.
MEAN, SLOW, FAST, SEEN, OWN, NEXT = range(6)
GIVEN, ODDS = range(2)  # of pairs: P(e active d + 1 layers after l | a active in l); its log-odds less those of e alone


class State(NamedTuple):
    """All that the forecaster knows, in few arrays, since each costs a call as much as a hundred additions.

    `table_6LE`, `pairs_2LDEE` as above. `ring_RDE`: evidence of the last layers, layer l in row l % R. `active_LN`:
    how many experts each layer of this step demanded, then which. `spare_4E`: room to compute in.
    """

    table_6LE: FloatArray
    pairs_2LDEE: Float32
    ring_RDE: FloatArray
    active_LN: IntArray
    spare_4E: FloatArray


@compiled_lean
def logits(p_E: FloatArray | Float32, out_E: FloatArray, spare_4E: FloatArray) -> None:
    """logit of every entry; `out_E` is another array, or row 2 or 3 of `spare_4E`."""
    for e in range(len(p_E)):
        held = min(max(np.float64(p_E[e]), LEAST), 1.0 - LEAST)
        spare_4E[0, e] = held / (1.0 - held)
    log(spare_4E[0], out_E, spare_4E[1])


@compiled_lean
def sigmoid(odds_E: FloatArray, out_E: FloatArray, spare_E: FloatArray) -> None:
    """1 / (1 + e ** -odds) of every entry."""
    for e in range(len(odds_E)):
        out_E[e] = -odds_E[e]
    exp(out_E, out_E, spare_E)
    for e in range(len(odds_E)):
        out_E[e] = 1.0 / (1.0 + out_E[e])


@compiled_lean
def logit(p: float) -> float:
    """log(p / (1 - p)), p held away from 0 and 1."""
    held = min(max(p, LEAST), 1.0 - LEAST)
    return float(np.log(held / (1.0 - held)))


@compiled_and_kept
def fit(experts_TLK: npt.NDArray[np.int16], state: State) -> None:
    """Count a calibration trace into `seen`, `given` and `odds`."""
    tokens, layers, top_k = experts_TLK.shape
    given_LDEE, odds_LDEE = state.pairs_2LDEE[GIVEN], state.pairs_2LDEE[ODDS]
    mean_LE, seen_LE = state.table_6LE[MEAN], state.table_6LE[SEEN]
    distances, num_experts = given_LDEE.shape[1], mean_LE.shape[1]
    for t in range(tokens):
        for l in range(layers):
            for i in range(top_k):
                a = experts_TLK[t, l, i]
                seen_LE[l, a] += 1.0
                for d in range(min(distances, layers - 1 - l)):
                    row_E = given_LDEE[l, d, a]
                    for j in range(top_k):
                        row_E[experts_TLK[t, l + d + 1, j]] += 1.0
    for l in range(layers):
        for d in range(min(distances, layers - 1 - l)):
            for a in range(num_experts):
                row_E = given_LDEE[l, d, a]
                for e in range(num_experts):
                    alone = mean_LE[l + d + 1, e]
                    row_E[e] = (row_E[e] + PRIOR * alone) / (seen_LE[l, a] + PRIOR)
                    odds_LDEE[l, d, a, e] = logit(row_E[e]) - logit(alone)


def empty(layers: int, experts: int, distances: int) -> State:
    """Arrays for a model of this shape, all zero."""
    return State(
        table_6LE=np.zeros((6, layers, experts)),
        pairs_2LDEE=np.zeros((2, layers, distances, experts, experts), np.float32),
        ring_RDE=np.zeros((RING, distances, experts)),
        active_LN=np.zeros((layers, 1 + experts), np.int64),
        spare_4E=np.zeros((4, experts)),
    )


@compiled_lean
def learn_pairs(state: State, layer: int, active_N: IntArray) -> None:
    """This layer's experts against those of the layers before it in the same token."""
    given_LDEE, odds_LDEE = state.pairs_2LDEE[GIVEN], state.pairs_2LDEE[ODDS]
    mean_E, seen_LE = state.table_6LE[MEAN, layer], state.table_6LE[SEEN]
    alone_E, given_E, is_known = state.spare_4E[2], state.spare_4E[3], False
    for d in range(min(given_LDEE.shape[1], layer)):
        source = layer - 1 - d
        for i in range(state.active_LN[source, 0]):
            a = state.active_LN[source, 1 + i]
            seen = seen_LE[source, a]
            row_E = given_LDEE[source, d, a]
            rate = np.float32(1.0 / min(seen + PRIOR, CAP))
            for e in range(len(mean_E)):
                row_E[e] -= rate * row_E[e]
            for j in range(len(active_N)):
                row_E[active_N[j]] += rate
            if seen < 64 or int(seen) % REFRESH == 0:
                if not is_known:
                    logits(mean_E, alone_E, state.spare_4E)
                    is_known = True
                odds_E = odds_LDEE[source, d, a]
                logits(row_E, given_E, state.spare_4E)
                for e in range(len(mean_E)):
                    odds_E[e] = given_E[e] - alone_E[e]


@compiled_lean
def learn_own(
    state: State, layer: int, active_N: IntArray, share_N: FloatArray, rates_3: FloatArray, weights: FloatArray
) -> None:
    """Averages of this layer's demand, and the log-odds that follow from them."""
    table_6LE = state.table_6LE
    mean_E, fast_E, slow_E = table_6LE[MEAN, layer], table_6LE[FAST, layer], table_6LE[SLOW, layer]
    own_E, next_E = table_6LE[OWN, layer], table_6LE[NEXT, layer]
    for e in range(len(mean_E)):
        mean_E[e] -= rates_3[0] * mean_E[e]
        fast_E[e] -= rates_3[1] * fast_E[e]
        slow_E[e] -= rates_3[2] * slow_E[e]
    for i in range(len(active_N)):
        e = active_N[i]
        table_6LE[SEEN, layer, e] += 1.0
        mean_E[e] += rates_3[0] * share_N[i]
        fast_E[e] += rates_3[1] * share_N[i]
        slow_E[e] += rates_3[2] * share_N[i]
    own_E[:] = weights[0]
    logit_E = state.spare_4E[2]
    for i, share_E in enumerate((mean_E, fast_E, slow_E)):
        logits(share_E, logit_E, state.spare_4E)
        for e in range(len(mean_E)):
            own_E[e] += weights[1 + i] * logit_E[e]
    sigmoid(own_E, next_E, state.spare_4E[0])


@compiled_lean
def learn(
    state: State, layer: int, active_N: IntArray, share_N: FloatArray, one_token: bool, settings: FloatArray
) -> None:
    """As `observe`, of a state in one piece."""
    table_6LE, pairs_2LDEE, ring_RDE, active_LN, spare_4E = state
    rates_3, weights = settings[:3], settings[3:]
    _, layers, num_experts = table_6LE.shape
    odds_LDEE = pairs_2LDEE[ODDS]
    distances = odds_LDEE.shape[1]
    if layer == 0:
        ring_RDE[:] = 0.0
        active_LN[:, 0] = 0
    if one_token:
        learn_pairs(state, layer, active_N)
        active_LN[layer, 0] = len(active_N)
        for i in range(len(active_N)):
            active_LN[layer, 1 + i] = active_N[i]
    learn_own(state, layer, active_N, share_N, rates_3, weights)
    ahead = min(distances, layers - 1 - layer)
    for d in range(ahead):
        evidence_E = ring_RDE[layer % RING, d]
        evidence_E[:] = 0.0
        for i in range(len(active_N)):
            row_E = odds_LDEE[layer, d, active_N[i]]
            for e in range(num_experts):
                evidence_E[e] += share_N[i] * row_E[e]
    back = min(RING, layer + 1)
    for d in range(ahead):
        odds_E = spare_4E[2]
        own_E = table_6LE[OWN, layer + 1 + d]
        for e in range(num_experts):
            odds_E[e] = own_E[e]
        for r in range(min(back, distances - d)):
            evidence_E = ring_RDE[(layer - r) % RING, d + r]
            for e in range(num_experts):
                odds_E[e] += weights[4 + r] * evidence_E[e]
        sigmoid(odds_E, table_6LE[NEXT, layer + 1 + d], spare_4E[0])


def _kernel(stamp: int) -> Callable[..., None]:
    @compiled_and_kept
    def observe(
        table_6LE: FloatArray,
        pairs_2LDEE: Float32,
        ring_RDE: FloatArray,
        active_LN: IntArray,
        spare_4E: FloatArray,
        layer: int,
        active_N: IntArray,
        share_N: FloatArray,
        one_token: bool,
        settings: FloatArray,
    ) -> None:
        """Learn one layer's demand and renew the forecast of the layers after it.

        `share_N`: tokens of each active expert per token of the step. `settings`: rates of mean, fast and slow, then
        the weights: constant, mean, fast, slow, evidence of the layer 1, 2, 3, 4 back.
        """
        assert stamp >= 0  # the use puts it into the closure, see hetsched/jit.py
        learn(
            State(table_6LE, pairs_2LDEE, ring_RDE, active_LN, spare_4E), layer, active_N, share_N, one_token, settings
        )

    return observe


SOURCES = ("hetsched.forecast.elementary", "hetsched.forecast.transition_kernels", "hetsched.board")
observe = _kernel(source_stamp(*SOURCES))


# Places in `rates_R`: of the short means; most tokens a step counts as; steps so far, and over how many the long mean
# forgets.
FAST_RATE, SLOW_RATE, MAX_TOKENS, STEPS, LONG = range(5)


@compiled_lean
def renew(settings: FloatArray, rates_R: FloatArray, tokens: int) -> None:
    """Count a step of so many tokens, and what its demand moves the means by."""
    rates_R[STEPS] += 1
    counted = min(tokens, int(rates_R[MAX_TOKENS]))
    settings[0] = 1.0 - (1.0 - 1.0 / min(rates_R[STEPS] + 20.0, rates_R[LONG])) ** counted
    settings[1] = 1.0 - (1.0 - rates_R[FAST_RATE]) ** counted
    settings[2] = 1.0 - (1.0 - rates_R[SLOW_RATE]) ** counted


@compiled_lean
def learn_from(board: Board, known: Any) -> None:
    """One layer's demand on a board: `known` are a State's arrays, the settings, rates_R, and scratch [E]."""
    state, settings, share_E = State(known[0], known[1], known[2], known[3], known[4]), known[5], known[7]
    tokens, active = board.at[TOKENS], board.at[ACTIVE]
    if board.at[LAYER] == 0:
        renew(settings, known[6], tokens)
    for i in range(active):
        share_E[i] = 1.0 if tokens == 1 else board.tokens_N[i] / max(tokens, 1)
    learn(state, board.at[LAYER], board.active_N[:active], share_E[:active], tokens == 1, settings)
