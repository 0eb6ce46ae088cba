"""Kernels of the compact predictor: one layer's demand learned, the forecasts of the next layers renewed.

Shapes: L layers, E experts, H width of the network, N active experts, T tokens, K top-k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..board import ACTIVE, LAYER, TOKENS, Board
from ..forecast.elementary import ONE, ZERO
from ..forecast.transition_kernels import logits, renew, shares, sigmoid
from ..jit import compiled_and_kept, compiled_lean, source_stamp
from ..types import Float32Array, FloatArray, IntArray
from .compact import CHOSEN, LATELY, OWN, SLOWLY, Compact

# Rows of `table_5LE`: demand per token averaged over ever shorter times, log-odds from an expert's own past, forecast.
MEAN, SLOW, FAST, ODDS, NEXT = range(5)
# Rows of `sums_3LH`: what the means come to in the tables of Compact: fast in OWN, fast in LATELY, slow in SLOWLY.
FAST_OWN, FAST_TOPIC, SLOW_TOPIC = range(3)
# Rows of `token_4H`: h of this token, what its hidden state in this layer adds to it, and h of layers ahead.
TOKEN, GIVEN, AHEAD, FURTHER = range(4)
# Places in `settings`: rates of mean, fast and slow for this step, then how fast biases and outputs learn, and the
# reach.
MEAN_RATE, FAST_RATE, SLOW_RATE, BIAS_RATE, OUT_RATE, PAIR_RATE, REACH = range(7)


class State(NamedTuple):
    """What a run knows. `table_5LE` and `sums_3LH` as above; `hidden_LH`: hidden_l behind the forecast that stands;
    `token_4H`: rows below; `spare_5E`: room. `pairs_LEE`: what the nearest forecast of a layer gains, in log-odds, by
    each expert of the layer before, zero at first; `before_2N`: how many experts that layer asked for, which; their
    shares in the second row.
    """

    table_5LE: FloatArray
    sums_3LH: Float32Array
    hidden_LH: Float32Array
    token_4H: Float32Array
    pairs_LEE: Float32Array
    before_2N: FloatArray
    spare_5E: Float32Array


def empty(layers: int, experts: int, width: int) -> State:
    """Arrays for a predictor of this shape, all zero."""
    return State(
        table_5LE=np.zeros((5, layers, experts)),
        sums_3LH=np.zeros((3, layers, width), np.float32),
        hidden_LH=np.zeros((layers, width), np.float32),
        token_4H=np.zeros((4, width), np.float32),
        pairs_LEE=np.zeros((layers, experts, experts), np.float32),
        before_2N=np.zeros((2, 1 + experts)),
        spare_5E=np.zeros((5, experts), np.float32),
    )


@compiled_lean
def copy(from_N: Float32Array, to_N: Float32Array) -> None:
    """to_N = from_N; an assignment of slices would take memory for the case that they overlap."""
    for n in range(len(to_N)):
        to_N[n] = from_N[n]


@compiled_lean
def add_product(x_H: Float32Array, matrix_HN: Float32Array, out_N: Float32Array) -> None:
    """out_N += x_H @ matrix_HN; zeros, half of what relu leaves, cost nothing."""
    for i in range(len(x_H)):
        x = x_H[i]
        if x != ZERO:
            for n in range(len(out_N)):
                out_N[n] += x * matrix_HN[i, n]


@compiled_lean
def foretell(net: Compact, state: State, layer: int, token_H: Float32Array, is_next: bool) -> None:
    """The forecast of one layer, given what stands for h there; `is_next`: the layer before it is known."""
    hidden_H, fast_H, odds_E = state.hidden_LH[layer], state.sums_3LH[FAST_OWN, layer], state.spare_5E[2]
    for i in range(len(hidden_H)):
        hidden_H[i] = max(token_H[i] + fast_H[i] + net.offset_LH[layer, i], ZERO)
    for e in range(len(odds_E)):
        odds_E[e] = np.float32(state.table_5LE[ODDS, layer, e])
    if is_next:
        for n in range(1, int(state.before_2N[0, 0]) + 1):
            share, pairs_E = np.float32(state.before_2N[1, n]), state.pairs_LEE[layer, int(state.before_2N[0, n])]
            for e in range(len(odds_E)):
                odds_E[e] += share * pairs_E[e]
    add_product(hidden_H, net.out_LHE[layer], odds_E)
    sigmoid(odds_E, state.table_5LE[NEXT, layer], state.spare_5E)


@compiled_lean
def correct_pairs(state: State, layer: int, rate: np.float32, error_E: Float32Array) -> None:
    """The same step for the pairs of the layer before and this one."""
    before_2N = state.before_2N
    known, length = int(before_2N[0, 0]), ONE
    for n in range(1, known + 1):
        length += np.float32(before_2N[1, n] * before_2N[1, n])
    for n in range(1, known + 1):
        step, pairs_E = rate * np.float32(before_2N[1, n]) / length, state.pairs_LEE[layer, int(before_2N[0, n])]
        for e in range(len(error_E)):
            pairs_E[e] += step * error_E[e]


@compiled_lean
def correct(
    net: Compact, state: State, layer: int, active_N: IntArray, share_N: FloatArray, settings: FloatArray
) -> None:
    """One step of gradient descent on the log score of the forecast that stood: biases, and the layer's outputs.

    The outputs' step is normalised by the length of what they are multiplied with (Widrow and Hoff's rule in the form
    of Nagumo and Noda), so that `out_rate` is the part of an error that one observation takes away, in log-odds.
    """
    error_E, bias_rate, out_rate = state.spare_5E[2], np.float32(settings[BIAS_RATE]), np.float32(settings[OUT_RATE])
    for e in range(len(error_E)):
        error_E[e] = -np.float32(state.table_5LE[NEXT, layer, e])
    for i in range(len(active_N)):
        error_E[active_N[i]] += min(np.float32(share_N[i]), ONE)
    length = ONE
    for i in range(net.out_LHE.shape[1]):
        length += state.hidden_LH[layer, i] * state.hidden_LH[layer, i]
    if layer > 0:
        correct_pairs(state, layer, np.float32(settings[PAIR_RATE]), error_E)
    for e in range(len(error_E)):
        net.bias_LE[layer, e] += bias_rate * error_E[e]
        error_E[e] *= out_rate / length
    for i in range(net.out_LHE.shape[1]):
        hidden, out_E = state.hidden_LH[layer, i], net.out_LHE[layer, i]
        if hidden != ZERO:
            for e in range(len(error_E)):
                out_E[e] += hidden * error_E[e]


@compiled_lean
def renew_means(
    net: Compact, state: State, layer: int, active_N: IntArray, share_N: FloatArray, settings: FloatArray
) -> None:
    """Running means of the layer's demand, what they come to in the tables, and the log-odds from them."""
    table_5LE, sums_3LH = state.table_5LE, state.sums_3LH
    mean_E, slow_E, fast_E = table_5LE[MEAN, layer], table_5LE[SLOW, layer], table_5LE[FAST, layer]
    mean_rate, fast_rate, slow_rate = settings[MEAN_RATE], settings[FAST_RATE], settings[SLOW_RATE]
    for e in range(len(mean_E)):
        mean_E[e] -= mean_rate * mean_E[e]
        fast_E[e] -= fast_rate * fast_E[e]
        slow_E[e] -= slow_rate * slow_E[e]
    fast, slow = np.float32(fast_rate), np.float32(slow_rate)
    own_H, lately_H, slowly_H = sums_3LH[FAST_OWN, layer], sums_3LH[FAST_TOPIC, layer], sums_3LH[SLOW_TOPIC, layer]
    for i in range(len(own_H)):
        own_H[i] -= fast * own_H[i]
        lately_H[i] -= fast * lately_H[i]
        slowly_H[i] -= slow * slowly_H[i]
    for n in range(len(active_N)):
        e, share = active_N[n], share_N[n]
        mean_E[e] += mean_rate * share
        fast_E[e] += fast_rate * share
        slow_E[e] += slow_rate * share
        fast_share, slow_share = fast * np.float32(share), slow * np.float32(share)
        for i in range(len(own_H)):
            own_H[i] += fast_share * net.embed_4LEH[OWN, layer, e, i]
            lately_H[i] += fast_share * net.embed_4LEH[LATELY, layer, e, i]
            slowly_H[i] += slow_share * net.embed_4LEH[SLOWLY, layer, e, i]
    own_odds(net, state, layer)


@compiled_lean
def own_odds(net: Compact, state: State, layer: int) -> None:
    """Log-odds of a layer's experts from their own past."""
    spare_5E, odds_E = state.spare_5E, state.table_5LE[ODDS, layer]
    for e in range(len(odds_E)):
        odds_E[e] = net.bias_LE[layer, e]
    for row in range(3):
        logits(state.table_5LE[row, layer], spare_5E[2], spare_5E)
        weight = net.weight_L3[layer, row]
        for e in range(len(odds_E)):
            odds_E[e] += weight * spare_5E[2, e]


@compiled_lean
def advance(net: Compact, state: State, layer: int, active_N: IntArray, share_N: FloatArray) -> None:
    """h of this token, past this layer."""
    token_H, given_H, next_H = state.token_4H[TOKEN], state.token_4H[GIVEN], state.token_4H[AHEAD]
    if layer == 0:
        token_H[:] = ZERO
        for l in range(net.out_LHE.shape[0]):
            for i in range(len(token_H)):
                token_H[i] += state.sums_3LH[FAST_TOPIC, l, i] + state.sums_3LH[SLOW_TOPIC, l, i]
    for i in range(len(token_H)):
        next_H[i] = given_H[i]
        given_H[i] = ZERO
    add_product(token_H, net.across_LHH[layer], next_H)
    for n in range(len(active_N)):
        share = np.float32(share_N[n])
        for i in range(len(next_H)):
            next_H[i] += share * net.embed_4LEH[CHOSEN, layer, active_N[n], i]
    copy(next_H, token_H)


@compiled_lean
def foretell_ahead(net: Compact, state: State, layer: int, reach: int) -> None:
    """Forecasts of the layers after this one: of the nearest as it is, of the others as if nobody chose between."""
    ahead_H, further_H = state.token_4H[AHEAD], state.token_4H[FURTHER]
    copy(state.token_4H[TOKEN], ahead_H)
    last = min(layer + reach, net.out_LHE.shape[0] - 1)
    for l in range(layer + 1, last + 1):
        foretell(net, state, l, ahead_H, l == layer + 1)
        if l < last:
            copy(net.unseen_LH[l], further_H)
            add_product(ahead_H, net.across_LHH[l], further_H)
            copy(further_H, ahead_H)


@compiled_lean
def learn(
    net: Compact, state: State, layer: int, active_N: IntArray, share_N: FloatArray, settings: FloatArray
) -> None:
    """Learn one layer's demand; renew its own forecast and those of the next layers."""
    correct(net, state, layer, active_N, share_N, settings)
    state.before_2N[0, 0] = len(active_N)
    for n in range(len(active_N)):
        state.before_2N[0, 1 + n] = active_N[n]
        state.before_2N[1, 1 + n] = share_N[n]
    advance(net, state, layer, active_N, share_N)
    renew_means(net, state, layer, active_N, share_N, settings)
    foretell(net, state, layer, net.before_LH[layer], False)
    foretell_ahead(net, state, layer, int(settings[REACH]))


def _begin(stamp: int) -> Callable[..., None]:
    @compiled_and_kept
    def begin(net: Compact, state: State) -> None:
        """Sums and forecasts that follow from the means."""
        assert stamp >= 0
        for l in range(net.out_LHE.shape[0]):
            for e in range(net.out_LHE.shape[2]):
                for sums, table, row in ((FAST_OWN, OWN, FAST), (FAST_TOPIC, LATELY, FAST), (SLOW_TOPIC, SLOWLY, SLOW)):
                    share = np.float32(state.table_5LE[row, l, e])
                    for i in range(net.out_LHE.shape[1]):
                        state.sums_3LH[sums, l, i] += share * net.embed_4LEH[table, l, e, i]
            own_odds(net, state, l)
            foretell(net, state, l, net.before_LH[l], False)

    return begin


def _observe(stamp: int) -> Callable[..., None]:
    @compiled_and_kept
    def observe(
        net: Compact, state: State, layer: int, active_N: IntArray, share_N: FloatArray, settings: FloatArray
    ) -> None:
        """As `learn`, from Python. `share_N`: tokens of each active expert per token of the step."""
        assert stamp >= 0
        learn(net, state, layer, active_N, share_N, settings)

    return observe


def _over_tokens(stamp: int) -> Callable[..., None]:
    @compiled_and_kept
    def over_tokens(
        experts_TLK: npt.NDArray[np.int16], net: Compact, state: State, settings: FloatArray, rates_R: FloatArray
    ) -> None:
        """Observe one token after the other, to see how long that takes."""
        assert stamp >= 0
        share_K, active_K = np.ones(experts_TLK.shape[2]), np.zeros(experts_TLK.shape[2], np.int64)
        for t in range(len(experts_TLK)):
            renew(settings, rates_R, 1)
            for l in range(experts_TLK.shape[1]):
                for i in range(len(active_K)):
                    active_K[i] = experts_TLK[t, l, i]
                learn(net, state, l, active_K, share_K, settings)

    return over_tokens


SOURCES = (
    "hetsched.forecast.elementary",
    "hetsched.forecast.transition_kernels",
    "hetsched.predictor.compact",
    "hetsched.predictor.kernels",
    "hetsched.board",
)
_STAMP = source_stamp(*SOURCES)
begin, observe, over_tokens = _begin(_STAMP), _observe(_STAMP), _over_tokens(_STAMP)


@compiled_lean
def learn_from(board: Board, known: Any) -> None:
    """One layer's demand on a board: `known`: the arrays of a Compact and of a State, settings, rates_R, room [E]."""
    net = Compact(known[0], known[1], known[2], known[3], known[4], known[5], known[6], known[7], known[8])
    state = State(known[9], known[10], known[11], known[12], known[13], known[14], known[15])
    settings, share_E, tokens, active = known[16], known[18], board.at[TOKENS], board.at[ACTIVE]
    if board.at[LAYER] == 0:
        renew(settings, known[17], tokens)
    shares(board, share_E)
    learn(net, state, board.at[LAYER], board.active_N[:active], share_E[:active], settings)
