"""Foresight: what a forecaster says of each layer before the layer's router has run, and how right it is.

The forecaster walks the tokens that are scored as it would in a model: told the calibration trace first, then layer by
layer asked (`next_LE()` of that layer) and told (`observe`). Nothing of a layer's demand is known when it is asked.

Shapes: T tokens, C tokens of a chunk, L layers, E experts, K choices, G guesses, S sequences, B bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..forecast import Forecaster
from ..jit import compiled_and_kept
from ..replay.opened import Bench
from ..replay.simulator import demands
from ..traces.split import sequence_starts
from ..types import FloatArray, IntArray
from .measures import BINS, Sums

CHUNK = 64  # tokens judged in one compiled call
Progress = Callable[[int, int], None]
Ids = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Foresight:
    """Guesses, likeliest first, int16 [T, L, G], -1 where none was asked for; sums for measures.py, by sequence.

    `right_L`, `asked_L`: right guesses and experts asked for, by layer.
    """

    guesses_TLG: Ids
    sums_S: Sums
    right_L: IntArray
    asked_L: IntArray


def foresee(
    forecaster: Forecaster,
    bench: Bench,
    guesses: int,
    *,
    warm_up: int = 0,
    distance: int = 1,
    progress: Progress | None = None,
) -> Foresight:
    """Walk a forecaster over what the bench scores; `warm_up` tokens of each sequence are guessed but not judged.

    What is judged of a layer was said when the layer `distance` before it had spoken, the token's before for the first.
    Only steps of one token are guessed and judged: in larger ones the union of many tokens is asked for. The forecaster
    sees those all the same.
    """
    trace, steps, shape = bench.scored, bench.steps, bench.study.geometry
    forecaster.start(shape, bench.frequency_LE, bench.history)
    judge = _Judge(bench, guesses, warm_up)
    for s, layers in enumerate(demands(trace, steps)):
        is_one, said_LE = steps.end_S[s] - steps.begin_S[s] == 1, judge.said_LE
        if is_one and distance > 1:
            said_LE[: distance - 1] = forecaster.next_LE()[: distance - 1]
        for demand in layers:
            if is_one and (ahead := demand.layer + distance - 1) < len(said_LE):
                said_LE[ahead] = forecaster.next_LE()[ahead]
            forecaster.observe(demand)
        if is_one:
            judge.take(int(steps.begin_S[s]))
        if progress is not None and s % CHUNK == CHUNK - 1:
            progress(s + 1, steps.count)
    return judge.verdict()


def perfect(bench: Bench, guesses: int, *, warm_up: int = 0) -> Foresight:
    """What a forecaster that knew the answer would say: as many of the experts asked for as it may guess."""
    trace = bench.scored
    judge = _Judge(bench, min(guesses, trace.top_k), warm_up)
    layer_L1 = np.arange(trace.num_layers)[:, None]
    for token in range(trace.num_tokens):
        judge.said_LE[:] = 0.0
        judge.said_LE[layer_L1, trace.experts_TLK[token]] = 1.0
        judge.take(token)
    return judge.verdict()


class _Judge:
    """Collects forecasts of single tokens and compares them, chunk by chunk, with what was asked for."""

    def __init__(self, bench: Bench, guesses: int, warm_up: int) -> None:
        self._chosen_TLK = chosen_TLK = np.asarray(bench.scored.experts_TLK)
        tokens, layers, _ = chosen_TLK.shape
        starts_S1, experts = sequence_starts(bench.scored), bench.scored.num_experts
        self._starts_S = starts_S1[:-1]
        self._sequence_T = np.repeat(np.arange(len(starts_S1) - 1), np.diff(starts_S1))
        self._is_judged_T = np.arange(tokens) - self._starts_S[self._sequence_T] >= warm_up
        self._guesses_TLG = np.full((tokens, layers, min(guesses, experts)), -1, np.int16)
        self._right_TL, self._asked_TL = np.zeros((2, tokens, layers), np.int64)
        self._bins_S2B = np.zeros((len(self._starts_S), 2, BINS))
        self._said_CLE, self._token_C = np.zeros((CHUNK, layers, experts)), np.zeros(CHUNK, np.int64)
        self._filled = 0

    @property
    def said_LE(self) -> FloatArray:
        """Where the forecasts of the next token belong, float64 [L, E]."""
        place_LE: FloatArray = self._said_CLE[self._filled]
        return place_LE

    def take(self, token: int) -> None:
        """What stands in said_LE is of this token."""
        self._token_C[self._filled] = token
        self._filled += 1
        if self._filled == CHUNK:
            self._compare()

    def _compare(self) -> None:
        token_C = self._token_C[: self._filled]
        guessed = compare(
            self._said_CLE[: self._filled],
            np.ascontiguousarray(self._chosen_TLK[token_C]),
            self._guesses_TLG.shape[2],
            np.where(self._is_judged_T[token_C], self._sequence_T[token_C], -1),
            self._bins_S2B,
        )
        self._guesses_TLG[token_C], self._right_TL[token_C], self._asked_TL[token_C] = guessed
        self._filled = 0

    def verdict(self) -> Foresight:
        """All of it."""
        self._compare()
        right_TL, asked_TL = (count_TL * self._is_judged_T[:, None] for count_TL in (self._right_TL, self._asked_TL))
        guessed_TL = np.where(asked_TL > 0, self._guesses_TLG.shape[2], 0)
        cells_TL = np.where(asked_TL > 0, self._said_CLE.shape[2], 0)

        def by_sequence(count_TL: IntArray) -> FloatArray:
            return np.add.reduceat(count_TL.sum(axis=1), self._starts_S).astype(float)

        sums_S = {
            "cells": by_sequence(cells_TL),
            "asked": by_sequence(asked_TL),
            "guessed": by_sequence(guessed_TL),
            "right": by_sequence(right_TL),
            "said_B": self._bins_S2B[:, 0],
            "came_B": self._bins_S2B[:, 1],
        }
        return Foresight(self._guesses_TLG, sums_S, right_TL.sum(axis=0), asked_TL.sum(axis=0))


@compiled_and_kept
def compare(
    said_CLE: FloatArray, chosen_CLK: Ids, guesses: int, sequence_C: IntArray, bins_S2B: FloatArray
) -> tuple[Ids, IntArray, IntArray]:
    """The likeliest experts of each visit (of equals the lowest number), how many are right, how many were asked for.

    Adds to the bins of the token's sequence, if it has one (-1: none), forecasts and demands of every expert.
    """
    tokens, layers, experts = said_CLE.shape
    guesses_CLG = np.empty((tokens, layers, guesses), np.int16)
    right_CL, asked_CL = np.zeros((tokens, layers), np.int64), np.zeros((tokens, layers), np.int64)
    bins = bins_S2B.shape[2]
    for c in range(tokens):
        for l in range(layers):
            said_E = said_CLE[c, l]
            was_E, is_free_E = np.zeros(experts, np.bool_), np.ones(experts, np.bool_)
            for expert in chosen_CLK[c, l]:
                was_E[expert] = True
            asked_CL[c, l] = was_E.sum()
            for g in range(guesses):
                best = -1
                for e in range(experts):
                    if is_free_E[e] and (best < 0 or said_E[e] > said_E[best]):
                        best = e
                guesses_CLG[c, l, g], is_free_E[best] = best, False
                right_CL[c, l] += was_E[best]
            if sequence_C[c] < 0:
                continue
            for e in range(experts):
                b = min(int(said_E[e] * bins), bins - 1)
                bins_S2B[sequence_C[c], 0, b] += said_E[e]
                bins_S2B[sequence_C[c], 1, b] += was_E[e]
    return guesses_CLG, right_CL, asked_CL
