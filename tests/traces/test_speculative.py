"""Verify steps made from decode traces: what is verified, what stays, and that drafts are equal for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetsched.errors import InputError
from hetsched.traces.speculative import NEAR, Acceptance, Guesses, speculate
from hetsched.traces.split import sequence_starts
from hetsched.traces.trace import RoutingTrace, report, save_trace
from hetsched.traces.verified import drafting, text_of
from hetsched.types import Phase
from tests.traces.made import made


def steps_of(trace: RoutingTrace) -> list[tuple[list[int], int]]:
    """Of each step, the first layer's first choice of every input, and how many were kept."""
    assert trace.step_T is not None
    assert trace.kept_T is not None
    edges = np.append(np.flatnonzero(np.diff(trace.step_T, prepend=-1)), trace.num_tokens)
    pairs = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return [(trace.experts_TLK[a:b, 0, 0].tolist(), int(trace.kept_T[a:b].sum())) for a, b in pairs]


def counted(tokens: int = 10, sequences: int = 1) -> RoutingTrace:
    """A decode trace whose token t chooses expert t in every layer."""
    experts_TLK = np.repeat(np.arange(tokens, dtype=np.int16)[:, None], 2, axis=1)[:, :, None]
    trace: RoutingTrace = made(tokens, 2, tokens, 1, sequences, experts_TLK=experts_TLK)
    return trace


def test_a_draft_that_is_always_right_is_kept_whole() -> None:
    """Windows of K + 1 tokens; the last one has only the tokens that there are."""
    assert steps_of(speculate(counted(), 3, Acceptance((1.0,)))) == [([0, 1, 2, 3], 4), ([4, 5, 6, 7], 4), ([8, 9], 2)]
    two = steps_of(speculate(counted(6, 2), 9, Acceptance((1.0,))))
    assert two == [([0, 1, 2], 3), ([3, 4, 5], 3)]


def test_a_draft_that_is_never_right_runs_every_token_alone() -> None:
    """Each step keeps its first input; with same routing the rejected ones are routed as the real tokens."""
    found = steps_of(speculate(counted(5), 2, Acceptance((0.0,), same_routing=1.0)))
    assert found == [([0, 1, 2], 1), ([1, 2, 3], 1), ([2, 3, 4], 1), ([3, 4], 1), ([4], 1)]


def test_stand_ins_are_of_the_text_known_and_near() -> None:
    """No rejected draft shows what a later token wants."""
    for rows, kept in steps_of(speculate(counted(60), 4, Acceptance((0.5,), seed=3))):
        first_wrong = rows[0] + kept
        assert rows[:kept] == list(range(rows[0], first_wrong))
        assert all(first_wrong - NEAR <= row < first_wrong for row in rows[kept:])


@settings(deadline=None, max_examples=40)
@given(
    sequences=st.integers(1, 5),
    drafts=st.integers(0, 9),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_what_stays_is_the_trace(sequences: int, drafts: int, shares: list[float], seed: int) -> None:
    """Every token once, in order and in its sequence, whatever was drafted; and the file is a good one."""
    trace = made(40, sequences=sequences, weights_TLK=np.random.default_rng(0).random((40, 3, 2)).astype(np.float16))
    verified = speculate(trace, drafts, Acceptance(tuple(shares), seed / 99, seed))
    text = text_of(verified)
    np.testing.assert_array_equal(text.experts_TLK, trace.experts_TLK)
    np.testing.assert_array_equal(text.weights_TLK, trace.weights_TLK)
    np.testing.assert_array_equal(text.sequence_T, trace.sequence_T)
    assert verified.step_T is not None
    assert np.bincount(verified.step_T).max() <= drafts + 1


def test_drafts_are_equal_for_every_number_of_them() -> None:
    """A step with more drafts begins like one with fewer, and keeps no less."""
    trace = made(60, sequences=2)
    guesses = Guesses(trace, Acceptance((0.8, 0.6), 0.3, seed=1))
    for token in range(60):
        longest = guesses.step(token, 8)
        for drafts in range(8):
            step = guesses.step(token, drafts)
            np.testing.assert_array_equal(step.rows_NL, longest.rows_NL[: len(step.rows_NL)])
            assert step.kept == min(longest.kept, len(step.rows_NL))


@pytest.mark.parametrize("drafts", [1, 4])
def test_acceptance_is_as_stated(drafts: int) -> None:
    """Of long traces, the mean of the drafts kept is the sum of the products of the probabilities."""
    trace = made(40_000, 1, 4, 1, 1)
    found = drafting(speculate(trace, drafts, Acceptance((0.8, 0.5), seed=2)))
    assert found is not None
    expected = sum(0.8 * 0.5**i for i in range(drafts)) / drafts
    assert found.acceptance == pytest.approx(expected, abs=0.01)


def test_prompts_stay_and_teacher_forced_traces_are_decoded(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A prompt is one step, as it was; what has no decode step is decoded throughout; drafts are not drafted upon."""
    phases = np.array(([Phase.PREFILL] * 4 + [Phase.DECODE] * 6) * 2, np.uint8)
    trace = made(20, sequences=2, phase_T=phases)
    verified = speculate(trace, 2, Acceptance((0.5,)))
    prompt_T = verified.phase_T == Phase.PREFILL
    assert verified.step_T is not None
    assert np.bincount(verified.step_T[prompt_T])[verified.step_T[prompt_T]].tolist() == [4] * 8
    save_trace(tmp_path / "t.npz", verified)
    assert report(tmp_path / "t.npz") == []
    forced = speculate(replace(trace, phase_T=np.zeros(20, np.uint8)), 2, Acceptance((0.5,)))
    assert set(forced.phase_T.tolist()) <= {int(Phase.DECODE), int(Phase.VERIFY)}
    again = speculate(speculate(counted(), 3, Acceptance((0.5,))), 2, Acceptance((1.0,)))
    assert [rows for rows, _ in steps_of(again)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert sequence_starts(verified).tolist()[0] == 0


@pytest.mark.parametrize(
    ("drafts", "shares", "same", "names"),
    [
        (-1, (0.5,), 0.0, "0..63"),
        (64, (0.5,), 0.0, "0..63"),
        (2, (1.5,), 0.0, "acceptance is 1.5"),
        (2, (), 0.0, "0..1"),
        (2, (0.5,), 2.0, "same routing is 2"),
    ],
)
def test_numbers_out_of_range_are_refused(drafts: int, shares: tuple[float, ...], same: float, names: str) -> None:
    with pytest.raises(InputError, match=names):
        speculate(made(), drafts, Acceptance(shares, same))
