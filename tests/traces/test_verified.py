"""Which drafts of a trace stayed: stored, counted, cut, joined, and left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.traces.split import concat, sequences
from hetsched.traces.trace import RoutingTrace, load_trace, save_trace
from hetsched.traces.verified import drafting, text_of
from hetsched.types import Phase
from tests.traces.made import made, same

P, D, V = (int(phase) for phase in (Phase.PREFILL, Phase.DECODE, Phase.VERIFY))
# Two sequences: a prompt, a step with 2 of 3 drafts kept, one with none of 2; a prompt, and a step without drafts.
PHASES = [P, P, V, V, V, V, V, V, V, P, D]
STEPS = [0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 4]
KEPT = [1, 1, 1, 1, 1, 0, 1, 0, 0, 1, 1]
SEQUENCES = [0] * 9 + [1] * 2


def verified() -> RoutingTrace:
    """The trace above, with router weights."""
    tokens = len(KEPT)
    trace: RoutingTrace = made(
        tokens,
        sequence_T=np.array(SEQUENCES, np.int32),
        phase_T=np.array(PHASES, np.uint8),
        step_T=np.array(STEPS, np.int32),
        kept_T=np.array(KEPT, np.uint8),
        weights_TLK=np.random.default_rng(3).random((tokens, 3, 2)).astype(np.float16),
    )
    return trace


def test_figures_are_those_counted_by_hand() -> None:
    """Three steps after prompts with 3, 2 and 0 drafts, of which 2 stayed."""
    found = drafting(verified())
    assert found is not None
    assert found == pytest.approx((2 / 5, 5 / 3, 2 / 3))
    assert drafting(made()) is None


def test_the_text_is_what_was_kept() -> None:
    text, whole = text_of(verified()), verified()
    places = np.flatnonzero(KEPT)
    np.testing.assert_array_equal(text.experts_TLK, whole.experts_TLK[places])
    assert text.weights_TLK is not None
    assert whole.weights_TLK is not None
    np.testing.assert_array_equal(text.weights_TLK, whole.weights_TLK[places])
    assert text.phase_T.tolist() == [P, P, D, D, D, D, P, D]
    assert text.sequence_T.tolist() == [0] * 6 + [1] * 2
    assert (text.step_T, text.kept_T) == (None, None)
    assert text_of(made()).num_tokens == 40


def test_it_is_saved_cut_and_joined(tmp_path: Path) -> None:
    """A trace without marks has kept all; where its steps are unknown it is not joined with one that has marks."""
    save_trace(tmp_path / "t.npz", verified())
    again = load_trace(tmp_path / "t.npz")
    assert same(again, verified())
    second = sequences(again, 1, 2)
    assert second.kept_T is not None
    assert second.kept_T.tolist() == [1, 1]
    plain = made(8, step_T=np.arange(8, dtype=np.int32))
    concat([again, plain], tmp_path / "both.npz")
    kept_T = load_trace(tmp_path / "both.npz").kept_T
    assert kept_T is not None
    assert kept_T.tolist() == KEPT + [1] * 8
    with pytest.raises(InputError, match="trace 2 has no steps"):
        concat([again, made(8)], tmp_path / "both.npz")
