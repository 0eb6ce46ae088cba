"""What is learned from, what stops the learning, and what is scored: whole sequences, as replays split them."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..traces.split import sequence_starts, split, tokens
from ..traces.trace import RoutingTrace

FIT_SEQUENCES = 0.5
VALIDATION = 0.1  # of the part that is learned from, its last sequences


class Parts(NamedTuple):
    """`fit`: learned from, up to token `validation`, and stopped by from there on. `held_out`: scored.

    `by`: "sequences", or "tokens" where there is but one.
    """

    fit: RoutingTrace
    validation: int
    held_out: RoutingTrace
    by: str


def parts(trace: RoutingTrace, fit_sequences: float = FIT_SEQUENCES) -> Parts:
    """The first share of the sequences and the others; of the only sequence, the first share of its tokens.

    Raises InputError for a share outside 0..1, ends excluded, or a trace of one token.
    """
    if len(sequence_starts(trace)) > 2:
        fit, held_out = split(trace, fit_sequences)
        by = "sequences"
    else:
        if not 0 < fit_sequences < 1:
            raise InputError(f"the fraction is {fit_sequences:g}; it must lie between 0 and 1, ends excluded")
        first = int(trace.num_tokens * fit_sequences)
        if not first:
            raise InputError(f"the trace has {trace.num_tokens} tokens in one sequence, too few to learn from")
        fit, held_out, by = tokens(trace, slice(0, first)), tokens(trace, slice(first, None)), "tokens"
    return Parts(fit, _validation(fit), held_out, by)


def _validation(fit: RoutingTrace) -> int:
    """First token of the part that stops the learning: where a sequence begins, if that leaves something to learn."""
    wanted = int(fit.num_tokens * (1 - VALIDATION))
    starts_S = sequence_starts(fit)[1:-1]
    before_S = starts_S[starts_S <= wanted]
    return int(before_S[-1]) if len(before_S) and before_S[-1] > wanted // 2 else wanted


def trace_digest(trace: RoutingTrace) -> str:
    """Sixteen hexadecimal digits that stand for a trace's ids and sequences."""
    digest = hashlib.sha256()
    for array in (trace.experts_TLK, trace.sequence_T):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
