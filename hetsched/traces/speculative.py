"""Verify steps made from a decode trace, by a model of what a draft would have guessed.

For every token of a sequence a draft would guess it right, or not: one draw a token, so that drafts are equal for every
number of drafts and every strategy. A verify step of K drafts at token t holds the tokens t..t+K; it keeps t and the
drafts up to the first wrong guess, and the next step starts at the first token that was not kept, which runs again.

A wrong draft, and each draft after it, is another token than the trace's, whose routing nobody recorded. A stand-in
takes its place: in each layer, with a stated probability, the real row of that position, since routing follows the
place in the text as well as the token; else the row of a token close by in the text known so far, one for all layers.

Where the model is optimistic: guesses are independent of each other, while real ones come in runs, which makes long
drafts worse than here; a stand-in is of the same text, so rejected drafts share more experts with the others than
wrong tokens would; a guess does not depend on how the draft was made, nor on K. Where it is exact: accepted drafts are
routed as decoding routes them, and rejected ones cost what was computed for them.

Shapes: T tokens of a trace, N of a step, U of all steps, L layers, D places in a draft.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..types import BoolArray, FloatArray, IntArray, Phase
from .split import sequence_starts
from .trace import RoutingTrace
from .verified import text_of

NEAR = 8  # tokens before a wrong guess, one of which stands in for it
MOST_DRAFTS = 63


@dataclass(frozen=True)
class Acceptance:
    """A draft's worth. `share_D`: probability that the first, second, ... draft of a step is right if those before it
    were; the last number holds for all later ones. `same_routing`: probability, layer by layer, that a rejected draft
    is routed as the real token of its place is. The same `seed` gives the same guesses.

    Raises InputError for numbers out of range.
    """

    share_D: tuple[float, ...]
    same_routing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, numbers in (("acceptance", self.share_D or (-1.0,)), ("same routing", (self.same_routing,))):
            if not all(0 <= number <= 1 for number in numbers):
                raise InputError(f"{name} is {', '.join(f'{n:g}' for n in numbers)}; it must lie in 0..1")


class Verify(NamedTuple):
    """One step of a sequence: `rows_NL`, the token of the trace whose routing each input has in each layer, and how
    many of its inputs stay in the text.
    """

    rows_NL: IntArray
    kept: int


class Guesses:
    """What a draft would say at every token of a trace of decode tokens."""

    def __init__(self, trace: RoutingTrace, acceptance: Acceptance) -> None:
        rng, tokens = np.random.default_rng(acceptance.seed), trace.num_tokens
        self._share_D = acceptance.share_D
        self._luck_T: FloatArray = rng.random(tokens)
        self._near_T: FloatArray = rng.random(tokens)
        self._same_TL: BoolArray = rng.random((tokens, trace.num_layers)) < acceptance.same_routing
        starts_S1 = sequence_starts(trace)
        self._first_T = np.repeat(starts_S1[:-1], np.diff(starts_S1))
        self._end_T = np.repeat(starts_S1[1:], np.diff(starts_S1))

    def most(self, token: int) -> int:
        """Drafts that a step at a token can have: the rest of the sequence is all that was recorded."""
        return int(self._end_T[token]) - token - 1

    def step(self, token: int, drafts: int) -> Verify:
        """The step that begins at a token, with so many drafts, or as many as the sequence has tokens for."""
        drafts = min(drafts, self.most(token))
        right = 0
        while right < drafts and self._is_right(token, right):
            right += 1
        rows_NL = np.repeat(np.arange(token, token + drafts + 1)[:, None], self._same_TL.shape[1], axis=1)
        if right < drafts:
            wrong = slice(token + right + 1, token + drafts + 1)
            known = wrong.start - int(self._first_T[token])  # tokens of the text before the first wrong guess
            back_N = 1 + (self._near_T[wrong] * min(NEAR, known)).astype(np.int64)
            rows_NL[right + 1 :] = np.where(self._same_TL[wrong], rows_NL[right + 1 :], (wrong.start - back_N)[:, None])
        return Verify(rows_NL, right + 1)

    def _is_right(self, token: int, place: int) -> bool:
        share = self._share_D[min(place, len(self._share_D) - 1)]
        return bool(self._luck_T[token + place + 1] < share)


def speculate(trace: RoutingTrace, drafts: int, acceptance: Acceptance) -> RoutingTrace:
    """The trace of verify steps with `drafts` drafts each, fewer at the end of a sequence; prompts stay as they are.

    A trace of which nothing was decoded (teacher-forced) counts as decoded throughout; drafts that it has itself are
    taken out first. Raises InputError for a number of drafts out of range, and a trace without a token to decode.
    """
    if not 0 <= drafts <= MOST_DRAFTS:
        raise InputError(f"drafts is {drafts}; it must lie in 0..{MOST_DRAFTS}")
    text = decoded(text_of(trace))
    guesses, pieces = Guesses(text, acceptance), _Pieces(text.num_layers)
    phase_T, token = np.asarray(text.phase_T), 0
    while token < text.num_tokens:
        if phase_T[token] == Phase.PREFILL:
            token = pieces.add_prompt(text, token)
            continue
        step = guesses.step(token, drafts)
        pieces.add(step.rows_NL, step.kept, Phase.VERIFY if len(step.rows_NL) > 1 else Phase.DECODE)
        token += step.kept
    says = {"drafts": drafts, "acceptance": list(acceptance.share_D), "same_routing": acceptance.same_routing}
    made = pieces.trace(text)
    return replace(made, meta={**made.meta, "speculated": {**says, "seed": acceptance.seed}})


def decoded(trace: RoutingTrace) -> RoutingTrace:
    """The trace, as decoded throughout where no token of it was."""
    if np.isin(trace.phase_T, (Phase.DECODE, Phase.VERIFY)).any():
        return trace
    return replace(trace, phase_T=np.full(trace.num_tokens, Phase.DECODE, np.uint8), step_T=None)


class _Pieces:
    """Steps put together: rows [N, L] of the trace, how many stay, and the phase."""

    def __init__(self, num_layers: int) -> None:
        self._layers = num_layers
        self._rows: list[IntArray] = []
        self._kept: list[int] = []
        self._phase: list[Phase] = []

    def add(self, rows_NL: IntArray, kept: int, phase: Phase) -> None:
        """One step."""
        self._rows.append(rows_NL)
        self._kept.append(kept)
        self._phase.append(phase)

    def add_prompt(self, trace: RoutingTrace, token: int) -> int:
        """The run of prefill tokens that begins at one, as one step; the token after it."""
        is_prompt_T = (trace.phase_T[token:] == Phase.PREFILL) & (trace.sequence_T[token:] == trace.sequence_T[token])
        count = len(is_prompt_T) if is_prompt_T.all() else int(np.argmin(is_prompt_T))
        self.add(np.repeat(np.arange(token, token + count)[:, None], self._layers, axis=1), count, Phase.PREFILL)
        return token + count

    def trace(self, source: RoutingTrace) -> RoutingTrace:
        """All of them, as a trace."""
        rows_UL, layer_L = np.concatenate(self._rows), np.arange(self._layers)
        tokens_S = np.array([len(rows) for rows in self._rows])
        first_U = np.repeat(np.cumsum(tokens_S) - tokens_S, tokens_S)
        is_kept_U = np.arange(len(rows_UL)) - first_U < np.repeat(self._kept, tokens_S)
        begun_U = rows_UL[first_U, 0]  # a step's first input is a real token in every layer

        def taken(array: npt.NDArray[Any] | None) -> Any:
            return None if array is None else np.asarray(array)[rows_UL, layer_L]

        return replace(
            source,
            experts_TLK=taken(source.experts_TLK),
            sequence_T=np.asarray(source.sequence_T)[begun_U],
            phase_T=np.repeat(np.array(self._phase, np.uint8), tokens_S),
            weights_TLK=taken(source.weights_TLK),
            step_T=np.repeat(np.arange(len(tokens_S), dtype=np.int32), tokens_S),
            hidden_TLH=taken(source.hidden_TLH),
            kept_T=is_kept_U.astype(np.uint8),
        )
