"""A stand-in for a draft's routing in replays: the verify step's own experts, a stated share of them wrong.

A trace of verify steps says what the target chose, not what its routers say of the draft's hidden states. Here they say
the same but for a share of experts, which are others drawn evenly: 1 - accuracy of them, drawn anew for each step and
always alike. Nothing is given for a step that verifies nothing.

Shapes: T tokens, L layers, K top-k, E experts, D tokens of the next step.
"""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..traces.trace import RoutingTrace
from ..types import Float32Array, Phase

USUAL_ACCURACY = 0.8
SEED = 2510  # of what is drawn


def check_accuracy(accuracy: float) -> float:
    """The same. Raises InputError for one that is none."""
    if not 0.0 <= accuracy <= 1.0:
        raise InputError(f"the accuracy of emulated drafts is {accuracy:g}; it must lie in 0..1")
    return accuracy


class EmulatedDraft:
    """Drafts of a trace whose tokens are numbered by steps. `gives`: whether it has a verify step at all."""

    def __init__(self, trace: RoutingTrace, accuracy: float) -> None:
        self._trace, self._accuracy = trace, check_accuracy(accuracy)
        self.gives = trace.step_T is not None and bool((np.asarray(trace.phase_T) == Phase.VERIFY).any())

    def after(self, step: int) -> Float32Array | None:
        """`draft_DLE` (see Context) for the step after this one, of the same text; None where there is none."""
        trace = self._trace
        if not self.gives or trace.step_T is None:
            return None
        begin, end = (int(i) for i in np.searchsorted(trace.step_T, (step + 1, step + 2)))
        if begin in (0, end) or trace.phase_T[begin] != Phase.VERIFY:
            return None
        if trace.sequence_T[begin] != trace.sequence_T[begin - 1]:
            return None
        named_DLK = np.array(trace.experts_TLK[begin:end], np.int64)
        rng = np.random.default_rng((SEED, step))
        other_DLK = rng.integers(1, max(trace.num_experts, 2), named_DLK.shape)
        is_wrong_DLK = rng.random(named_DLK.shape) >= self._accuracy
        named_DLK = np.where(is_wrong_DLK, (named_DLK + other_DLK) % trace.num_experts, named_DLK)
        draft_DLE = np.zeros((*named_DLK.shape[:2], trace.num_experts), np.float32)
        np.put_along_axis(draft_DLE, named_DLK, np.float32(1.0 / named_DLK.shape[2]), axis=2)
        return draft_DLE
