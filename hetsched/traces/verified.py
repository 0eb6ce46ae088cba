"""Verify steps of a trace: what was drafted, what of it stayed, and the text without what did not.

A verify step's first input is the last token emitted before; the others are drafts. It emits as many tokens as it kept.

Shapes: T tokens, S steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..types import IntArray, Phase
from .trace import RoutingTrace


class Drafting(NamedTuple):
    """How a run speculated. `acceptance`: share of the drafts that stayed; `mean_k`: drafts a step, over all steps but
    prefill; `go_share`: share of these steps with any draft.
    """

    acceptance: float
    mean_k: float
    go_share: float


def drafting_of(drafted_S: IntArray, accepted_S: IntArray) -> Drafting:
    """The figures of steps with so many drafts, of which so many stayed; zeros without any step or draft."""
    steps, drafts = max(len(drafted_S), 1), int(drafted_S.sum())
    return Drafting(int(accepted_S.sum()) / max(drafts, 1), drafts / steps, int((drafted_S > 0).sum()) / steps)


def drafting(trace: RoutingTrace) -> Drafting | None:
    """The figures of a trace with `kept`; None for one without."""
    if trace.kept_T is None:
        return None
    sequence_T = np.asarray(trace.sequence_T)
    step_T = np.arange(trace.num_tokens) if trace.step_T is None else np.asarray(trace.step_T)
    is_first_T = (np.diff(step_T, prepend=-1) != 0) | (np.diff(sequence_T, prepend=-1) != 0)
    begin_S = np.flatnonzero(is_first_T)
    tokens_S = np.diff(np.append(begin_S, trace.num_tokens))
    kept_S = np.add.reduceat(np.asarray(trace.kept_T), begin_S, dtype=np.int64) if len(begin_S) else tokens_S
    decoding_S = np.asarray(trace.phase_T)[begin_S] != Phase.PREFILL
    return drafting_of(tokens_S[decoding_S] - 1, np.maximum(kept_S[decoding_S] - 1, 0))


def text_of(trace: RoutingTrace) -> RoutingTrace:
    """The tokens that stayed, each once, and no step numbers: what decoding token by token would have run."""
    if trace.kept_T is None:
        return trace
    stay_T = np.asarray(trace.kept_T) > 0
    if bool(stay_T.all()):
        return replace(trace, kept_T=None)

    def staying(array: Any) -> Any:
        return None if array is None else array[stay_T]

    phase_T = staying(trace.phase_T)
    return replace(
        trace,
        experts_TLK=staying(trace.experts_TLK),
        sequence_T=staying(trace.sequence_T),
        phase_T=np.where(phase_T == Phase.VERIFY, Phase.DECODE, phase_T).astype(np.uint8),
        weights_TLK=staying(trace.weights_TLK),
        step_T=None,
        hidden_TLH=staying(trace.hidden_TLH),
        kept_T=None,
    )
