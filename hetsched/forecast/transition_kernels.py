"""Kernels of the transition forecaster.

Pairs of experts are counted, in a byte or two each, and nothing else is kept of them. What a layer's experts a1, a2 ..
tell of an expert e of a later layer, the sum of logit P(e | a) - logit P(e), is taken from the counts when it is
needed: as a product first, so that one logarithm does for several of them.

Shapes: L layers, E experts, D distances, T tokens, K top-k, N active experts, R ring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..board import ACTIVE, KEPT, LAYER, TOKENS, Board
from ..jit import compiled_and_kept, compiled_lean, source_stamp
from ..types import Float32Array, FloatArray, IntArray
from .elementary import ONE, ZERO, exp, log

RING = 4  # layers back whose evidence is kept apart: the nearest tells most
LEAST, MOST = np.float32(1e-3), np.float32(1.0 - 1e-3)  # probabilities are held between these
PRIOR = np.float32(2.0)  # observations that the layer's own frequency counts for
CAP = 2000  # observations after which old ones begin to be forgotten
GROUP = 12  # probabilities whose product is a normal float32
WIDE = 256  # experts up to which a count has two bytes


# Rows of a table [row, L, E]: demand per token averaged over ever shorter times, counted tokens in which each expert
# was active, its log-odds from its own past, and the forecast.
MEAN, SLOW, FAST, SEEN, OWN, NEXT = range(6)


class State(NamedTuple):
    """All that the forecaster knows, in few arrays, since each costs a call as much as a hundred additions.

    `table_6LE` as above; `alone_LE`: log-odds of its row MEAN. `count_LEDE`: at [l, a, d, e] the tokens in which e was
    active d + 1 layers after a was in l, of `table_6LE[SEEN, l, a]`. `ring_RDE`: evidence of the last layers, layer l
    in row l % R. `active_LN`: how many experts each layer of this step demanded, then which. `spare_5E`: room to
    compute in.
    """

    table_6LE: FloatArray
    alone_LE: Float32Array
    count_LEDE: npt.NDArray[Any]
    ring_RDE: Float32Array
    active_LN: IntArray
    spare_5E: Float32Array


def empty(layers: int, experts: int, distances: int) -> State:
    """Arrays for a model of this shape, all zero."""
    return State(
        table_6LE=np.zeros((6, layers, experts)),
        alone_LE=np.zeros((layers, experts), np.float32),
        count_LEDE=np.zeros((layers, experts, distances, experts), np.uint16 if experts <= WIDE else np.uint8),
        ring_RDE=np.zeros((RING, distances, experts), np.float32),
        active_LN=np.zeros((layers, 1 + experts), np.int64),
        spare_5E=np.zeros((5, experts), np.float32),
    )


@compiled_lean
def logits(p_E: FloatArray, out_E: Float32Array, spare_5E: Float32Array) -> None:
    """logit of every entry; `out_E` is another array, or one of the rows from 2 of `spare_5E`."""
    for e in range(len(p_E)):
        held = min(max(np.float32(p_E[e]), LEAST), MOST)
        spare_5E[0, e] = held / (ONE - held)
    log(spare_5E[0], out_E, spare_5E[1])


@compiled_lean
def sigmoid(odds_E: Float32Array, out_E: FloatArray, spare_5E: Float32Array) -> None:
    """1 / (1 + e ** -odds) of every entry; `odds_E` is one of the rows from 2 of `spare_5E`, or another array."""
    for e in range(len(odds_E)):
        spare_5E[0, e] = -odds_E[e]
    exp(spare_5E[0], spare_5E[0], spare_5E[1])
    for e in range(len(odds_E)):
        out_E[e] = ONE / (ONE + spare_5E[0, e])


@compiled_lean
def halve(state: State, layer: int, a: int) -> None:
    """Forget half of what was counted of an expert; of odd counts every other one is rounded up."""
    seen_LE, row_DE = state.table_6LE[SEEN], state.count_LEDE[layer, a]
    seen = seen_LE[layer, a] = int(seen_LE[layer, a]) >> 1
    for d in range(row_DE.shape[0]):
        for e in range(row_DE.shape[1]):
            row_DE[d, e] = min((int(row_DE[d, e]) + ((d + e) & 1)) >> 1, seen)


@compiled_lean
def count_source(state: State, layer: int, a: int) -> None:
    """One token more in which this expert was active."""
    if state.table_6LE[SEEN, layer, a] >= CAP:
        halve(state, layer, a)
    state.table_6LE[SEEN, layer, a] += 1.0


@compiled_lean
def count_pairs(state: State, layer: int, d: int, sources_N: npt.NDArray[Any], active_N: npt.NDArray[Any]) -> None:
    """The second experts were active d + 1 layers after the first."""
    count_LEDE = state.count_LEDE
    largest = 255 if count_LEDE.itemsize == 1 else 65535
    for i in range(len(sources_N)):
        a = sources_N[i]
        for j in range(len(active_N)):
            if count_LEDE[layer, a, d, active_N[j]] == largest:
                halve(state, layer, a)
            count_LEDE[layer, a, d, active_N[j]] += 1


@compiled_and_kept
def fit(experts_TLK: npt.NDArray[np.int16], state: State) -> None:
    """Count a calibration trace."""
    tokens, layers, top_k = experts_TLK.shape
    for t in range(tokens):
        for l in range(layers):
            for i in range(top_k):
                count_source(state, l, experts_TLK[t, l, i])
            for d in range(min(state.count_LEDE.shape[2], layers - 1 - l)):
                count_pairs(state, l, d, experts_TLK[t, l], experts_TLK[t, l + d + 1])


@compiled_lean
def learn_pairs(state: State, layer: int, active_N: IntArray) -> None:
    """This layer's experts against those of the layers before it in the same token."""
    active_LN = state.active_LN
    for d in range(min(state.count_LEDE.shape[2], layer)):
        source = layer - 1 - d
        count_pairs(state, source, d, active_LN[source, 1 : 1 + active_LN[source, 0]], active_N)
    active_LN[layer, 0] = len(active_N)
    for i in range(len(active_N)):
        active_LN[layer, 1 + i] = active_N[i]


@compiled_lean
def learn_own(
    state: State, layer: int, active_N: IntArray, share_N: FloatArray, rates_3: FloatArray, weights: FloatArray
) -> None:
    """Averages of this layer's demand, and the log-odds that follow from them."""
    table_6LE, alone_E = state.table_6LE, state.alone_LE[layer]
    mean_E, fast_E, slow_E = table_6LE[MEAN, layer], table_6LE[FAST, layer], table_6LE[SLOW, layer]
    for e in range(len(mean_E)):
        mean_E[e] -= rates_3[0] * mean_E[e]
        fast_E[e] -= rates_3[1] * fast_E[e]
        slow_E[e] -= rates_3[2] * slow_E[e]
    for i in range(len(active_N)):
        e = active_N[i]
        mean_E[e] += rates_3[0] * share_N[i]
        fast_E[e] += rates_3[1] * share_N[i]
        slow_E[e] += rates_3[2] * share_N[i]
    logit_fast_E, logit_slow_E, odds_E = state.spare_5E[2], state.spare_5E[3], state.spare_5E[4]
    logits(mean_E, alone_E, state.spare_5E)
    logits(fast_E, logit_fast_E, state.spare_5E)
    logits(slow_E, logit_slow_E, state.spare_5E)
    w0, w1, w2, w3 = np.float32(weights[0]), np.float32(weights[1]), np.float32(weights[2]), np.float32(weights[3])
    for e in range(len(mean_E)):
        odds_E[e] = w0 + w1 * alone_E[e] + w2 * logit_fast_E[e] + w3 * logit_slow_E[e]
        table_6LE[OWN, layer, e] = odds_E[e]
    sigmoid(odds_E, table_6LE[NEXT, layer], state.spare_5E)


@compiled_lean
def weigh(state: State, layer: int, d: int, active_N: IntArray, share_N: FloatArray) -> None:
    """Evidence of these experts about the layer d + 1 after theirs, into the ring."""
    spare_5E, evidence_E = state.spare_5E, state.ring_RDE[layer % RING, d]
    prior_E, given_E, others_E = spare_5E[2], spare_5E[3], spare_5E[4]
    mean_E, count_LEDE = state.table_6LE[MEAN, layer + 1 + d], state.count_LEDE
    for e in range(len(mean_E)):
        prior_E[e] = PRIOR * min(max(np.float32(mean_E[e]), LEAST), MOST)
        given_E[e] = others_E[e] = ONE
        evidence_E[e] = ZERO
    total, waiting = ZERO, 0
    for i in range(len(active_N)):
        a, share = active_N[i], np.float32(share_N[i])
        inverse = ONE / (np.float32(state.table_6LE[SEEN, layer, a]) + PRIOR)
        for e in range(len(mean_E)):
            given = min(max((np.float32(count_LEDE[layer, a, d, e]) + prior_E[e]) * inverse, LEAST), MOST)
            given_E[e] *= given
            others_E[e] *= ONE - given
        total += share
        waiting += 1
        if waiting == GROUP or i + 1 == len(active_N) or share_N[i + 1] != share_N[i]:
            for e in range(len(mean_E)):
                given_E[e] /= others_E[e]
            log(given_E, others_E, spare_5E[0])
            for e in range(len(mean_E)):
                evidence_E[e] += share * others_E[e]
                given_E[e] = others_E[e] = ONE
            waiting = 0
    for e in range(len(mean_E)):
        evidence_E[e] -= total * state.alone_LE[layer + 1 + d, e]


@compiled_lean
def learn(
    state: State, layer: int, active_N: IntArray, share_N: FloatArray, one_token: bool, settings: FloatArray
) -> None:
    """As `observe`, of a state in one piece."""
    table_6LE, ring_RDE, weights = state.table_6LE, state.ring_RDE, settings[3:]
    _, layers, num_experts = table_6LE.shape
    distances = ring_RDE.shape[1]
    if layer == 0:
        ring_RDE[:] = ZERO
        state.active_LN[:, 0] = 0
    if one_token:
        learn_pairs(state, layer, active_N)
    learn_own(state, layer, active_N, share_N, settings[:3], weights)
    for d in range(min(distances, layers - 1 - layer)):
        weigh(state, layer, d, active_N, share_N)
        odds_E = state.spare_5E[2]
        for e in range(num_experts):
            odds_E[e] = np.float32(table_6LE[OWN, layer + 1 + d, e])
        for r in range(min(RING, layer + 1, distances - d)):
            weight, evidence_E = np.float32(weights[4 + r]), ring_RDE[(layer - r) % RING, d + r]
            for e in range(num_experts):
                odds_E[e] += weight * evidence_E[e]
        sigmoid(odds_E, table_6LE[NEXT, layer + 1 + d], state.spare_5E)
    if one_token:
        for i in range(len(active_N)):
            count_source(state, layer, active_N[i])


def _kernel(stamp: int) -> Callable[..., None]:
    @compiled_and_kept
    def observe(
        table_6LE: FloatArray,
        alone_LE: Float32Array,
        count_LEDE: npt.NDArray[Any],
        ring_RDE: Float32Array,
        active_LN: IntArray,
        spare_5E: Float32Array,
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
        state = State(table_6LE, alone_LE, count_LEDE, ring_RDE, active_LN, spare_5E)
        learn(state, layer, active_N, share_N, one_token, settings)

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
def shares(board: Board, share_E: FloatArray) -> None:
    """Tokens of each active expert per token of the step, as Demand.share_N, into the first places."""
    tokens, kept = board.at[TOKENS], board.now[KEPT]
    for i in range(board.at[ACTIVE]):
        if tokens == 1:
            share_E[i] = 1.0
        elif kept > 0.0:
            share_E[i] = board.kept_N[i] / kept
        else:
            share_E[i] = board.tokens_N[i] / max(tokens, 1)


@compiled_lean
def learn_from(board: Board, known: Any) -> None:
    """One layer's demand on a board: `known` are a State's arrays, the settings, rates_R, and scratch [E]."""
    state = State(known[0], known[1], known[2], known[3], known[4], known[5])
    settings, share_E, tokens, active = known[6], known[8], board.at[TOKENS], board.at[ACTIVE]
    if board.at[LAYER] == 0:
        renew(settings, known[7], tokens)
    shares(board, share_E)
    learn(state, board.at[LAYER], board.active_N[:active], share_E[:active], tokens == 1, settings)
