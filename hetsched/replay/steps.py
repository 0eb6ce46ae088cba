"""Steps of a routing trace: which tokens went through the model together.

Shapes: S steps, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..traces.trace import RoutingTrace
from ..traces.verified import Drafting, drafting_of
from ..types import BoolArray, FloatArray, IntArray, Phase

MODES = ("auto", "recorded", "decode")


@dataclass(frozen=True)
class Steps:
    """Step s holds tokens begin_S[s]..end_S[s] - 1 of the trace; `phase_S` as in types.Phase; `note` for people.

    `rejected_S`: drafts of each step that did not stay in the text, None for none. They cost time and bytes, and count
    as no tokens. `draft_s_S`: seconds of drafting before each step, None for none.
    """

    begin_S: IntArray
    end_S: IntArray
    phase_S: npt.NDArray[np.uint8]
    note: str = ""
    rejected_S: IntArray | None = None
    draft_s_S: FloatArray | None = None

    @property
    def count(self) -> int:
        """Number of steps."""
        return len(self.begin_S)

    @property
    def kept_S(self) -> IntArray:
        """Tokens that each step emits."""
        tokens_S = self.end_S - self.begin_S
        return tokens_S if self.rejected_S is None else tokens_S - self.rejected_S

    @property
    def drafted_S(self) -> IntArray:
        """Drafts that each verify step was given; 0 for other steps."""
        drafted_S: IntArray = (self.end_S - self.begin_S - 1) * (self.phase_S == Phase.VERIFY)
        return drafted_S

    @property
    def drafting(self) -> Drafting | None:
        """The figures of speculation, prefill left out; None where nothing says what was rejected."""
        if self.rejected_S is None:
            return None
        decoding_S, drafted_S = self.phase_S != Phase.PREFILL, self.drafted_S
        return drafting_of(drafted_S[decoding_S], (drafted_S - np.minimum(self.rejected_S, drafted_S))[decoding_S])

    def with_drafting(self, token_s: float) -> Steps:
        """The steps, with so many seconds before each for every draft."""
        return replace(self, draft_s_S=(token_s * self.drafted_S).astype(np.float64))

    def first(self, count: int) -> Steps:
        """The first steps, at most `count` of them."""
        of_steps: dict[str, Any] = {name: a[:count] for name, a in vars(self).items() if isinstance(a, np.ndarray)}
        return replace(self, **of_steps)


def steps_of(
    trace: RoutingTrace, *, mode: str = "auto", verify: int = 0, prefill_chunk: int = 512, max_tokens: int | None = None
) -> Steps:
    """Group the tokens of a trace into steps; no step crosses a sequence.

    "recorded": forward passes as the trace marks them; where it does not, decode tokens one by one and neighbouring
    prefill or verify tokens together. At most `prefill_chunk` tokens of a prefill go together. "decode": one token a
    step, whatever was recorded. "auto": "decode" for a trace without any decode or verify step (teacher-forced), else
    "recorded". `verify` K > 0: windows of K + 1 tokens as verify steps, as if every draft had been accepted.
    `max_tokens`: only the first ones. Where a trace marks rejected drafts, "decode" and `verify` want its text alone
    (traces.verified.text_of), and the others keep count of them.
    Raises InputError for numbers out of range.
    """
    if mode not in MODES:
        raise InputError(f"replay mode {mode!r} is not one of {', '.join(MODES)}")
    if verify and mode != "auto":
        raise InputError(
            f"verify {verify} makes steps of its own, so replay mode {mode!r} would go unused; drop one of them"
        )
    if verify < 0 or prefill_chunk < 1 or (max_tokens is not None and max_tokens < 1):
        raise InputError("verify must be at least 0, prefill_chunk and max_tokens at least 1")
    tokens = trace.num_tokens if max_tokens is None else min(trace.num_tokens, max_tokens)
    sequence_T, phase_T = np.asarray(trace.sequence_T[:tokens]), np.asarray(trace.phase_T[:tokens])
    if verify:
        note = f"windows of {verify + 1} tokens replayed as verify steps, all drafts accepted"
        return _cut(_runs(sequence_T), verify + 1, np.full(tokens, Phase.VERIFY, np.uint8), note)
    teacher_forced = not np.isin(trace.phase_T, (Phase.DECODE, Phase.VERIFY)).any()
    if mode == "decode" or (mode == "auto" and teacher_forced):
        note = "no decode step was recorded: replayed token by token as decode" if mode == "auto" else ""
        return _cut(_runs(sequence_T), 1, np.full(tokens, Phase.DECODE, np.uint8), note)
    phase_T = np.where(phase_T == Phase.UNKNOWN, Phase.DECODE, phase_T).astype(np.uint8)
    kind_T = sequence_T.astype(np.int64) * 4 + phase_T
    pass_T = kind_T if trace.step_T is None else np.asarray(trace.step_T[:tokens])
    runs = _runs(kind_T, pass_T)
    one_by_one = trace.step_T is None
    return _with_rejected(_cut(runs, prefill_chunk, phase_T, "", one_by_one=one_by_one), trace)


def _with_rejected(steps: Steps, trace: RoutingTrace) -> Steps:
    """The steps, and how many of their drafts the trace says were rejected."""
    if trace.kept_T is None or not steps.count:
        return steps
    rejected_T = np.asarray(trace.kept_T[: int(steps.end_S[-1])]) == 0
    return replace(steps, rejected_S=np.add.reduceat(rejected_T, steps.begin_S, dtype=np.int64))


def new_requests(trace: RoutingTrace, steps: Steps) -> BoolArray:
    """Which steps are the first of a sequence, bool [S]: each is a request, and its beginning ends the one before."""
    sequence_T, begin_S = np.asarray(trace.sequence_T), steps.begin_S
    is_new_S: BoolArray = (begin_S == 0) | (sequence_T[begin_S] != sequence_T[begin_S - 1])
    return is_new_S


def contexts(steps: Steps, new_S: BoolArray) -> IntArray:
    """Tokens of its sequence that stayed in the text before each step, int [S]. `new_S`: as new_requests says."""
    before_S = np.cumsum(steps.kept_S) - steps.kept_S
    context_S: IntArray = before_S - np.maximum.accumulate(np.where(new_S, before_S, 0))
    return context_S


def _runs(*keys_T: npt.NDArray[np.integer]) -> IntArray:
    """Where runs of equal keys begin, and the end."""
    changed_T = np.any([np.diff(key_T) != 0 for key_T in keys_T], axis=0)
    return np.concatenate([[0], np.flatnonzero(changed_T) + 1, [len(keys_T[0])]]).astype(np.int64)


def _cut(runs: IntArray, longest: int, phase_T: npt.NDArray[np.uint8], note: str, *, one_by_one: bool = False) -> Steps:
    """Runs in pieces of at most `longest` tokens; decode tokens single if `one_by_one`."""
    pieces = [np.zeros(0, np.int64)]
    for begin, end in zip(runs[:-1].tolist(), runs[1:].tolist(), strict=True):
        single = one_by_one and begin < end and phase_T[begin] == Phase.DECODE
        pieces.append(np.arange(begin, end, 1 if single else longest))
    begin_S = np.concatenate(pieces)
    end_S = np.append(begin_S[1:], runs[-1]).astype(np.int64)[: len(begin_S)]
    return Steps(begin_S, end_S, phase_T[begin_S], note)
