"""Which tokens of a trace go through the model together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.replay.steps import Steps, steps_of
from hetsched.traces.trace import RoutingTrace
from hetsched.types import Phase

P, D, V, U = (int(phase) for phase in (Phase.PREFILL, Phase.DECODE, Phase.VERIFY, Phase.UNKNOWN))


def trace_of(phases: list[int], sequences: list[int] | None = None) -> RoutingTrace:
    """A trace of these phases; one sequence unless said otherwise."""
    tokens = len(phases)
    sequence_T = np.array(sequences if sequences is not None else [0] * tokens, np.int32)
    return RoutingTrace(np.zeros((tokens, 1, 1), np.int16), sequence_T, np.array(phases, np.uint8), 2)


def spans(steps: Steps) -> list[tuple[int, int, int]]:
    """(first token, past the last, phase) of each step."""
    assert steps.count == len(steps.end_S) == len(steps.phase_S)
    return list(zip(steps.begin_S.tolist(), steps.end_S.tolist(), steps.phase_S.tolist(), strict=True))


def test_recorded_phases_make_steps() -> None:
    """Prefill together, decode one by one, and so again in the next sequence."""
    steps = steps_of(trace_of([P, P, P, D, D, P, P, D], [0, 0, 0, 0, 0, 1, 1, 1]))
    assert spans(steps) == [(0, 3, P), (3, 4, D), (4, 5, D), (5, 7, P), (7, 8, D)]
    assert steps.note == ""


def test_no_step_crosses_a_sequence() -> None:
    trace = trace_of([P, P, P, V, V, V, D], [4, 4, 9, 9, 2, 2, 2])
    assert spans(steps_of(trace, mode="recorded")) == [(0, 2, P), (2, 3, P), (3, 4, V), (4, 6, V), (6, 7, D)]
    assert spans(steps_of(trace, verify=3)) == [(0, 2, V), (2, 4, V), (4, 7, V)]


def test_marked_passes_are_kept() -> None:
    """Two verify passes in a row stay two, a batch of decode tokens stays one; a pass of two kinds is cut between."""
    trace = trace_of([P, P, V, V, V, V, D, D, P, D])
    trace = replace(trace, step_T=np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], np.int32))
    expected = [(0, 2, P), (2, 4, V), (4, 6, V), (6, 8, D), (8, 9, P), (9, 10, D)]
    assert spans(steps_of(trace)) == expected
    assert spans(steps_of(trace, max_tokens=5)) == [*expected[:2], (4, 5, V)]
    assert spans(steps_of(trace, prefill_chunk=1))[:2] == [(0, 1, P), (1, 2, P)]


def test_long_prefill_goes_in_chunks() -> None:
    """Chunks begin anew with each prefill."""
    steps = steps_of(trace_of([P] * 5 + [D] + [P] * 3), prefill_chunk=2)
    assert spans(steps) == [(0, 2, P), (2, 4, P), (4, 5, P), (5, 6, D), (6, 8, P), (8, 9, P)]


def test_verify_windows() -> None:
    """K + 1 tokens each, the last one shorter; every phase becomes verify, and the note says that it is made up."""
    steps = steps_of(trace_of([P] * 3 + [D] * 5), verify=2)
    assert spans(steps) == [(0, 3, V), (3, 6, V), (6, 8, V)]
    assert "all drafts accepted" in steps.note


def test_unknown_phases_are_decode() -> None:
    assert spans(steps_of(trace_of([U, U, D]))) == [(0, 1, D), (1, 2, D), (2, 3, D)]


@pytest.mark.parametrize("phase", [P, U])
def test_auto_replays_a_teacher_forced_trace_token_by_token(phase: int) -> None:
    trace = trace_of([phase] * 3)
    steps = steps_of(trace)
    assert spans(steps) == [(0, 1, D), (1, 2, D), (2, 3, D)]
    assert "token by token" in steps.note
    if phase == P:
        assert spans(steps_of(trace, mode="recorded")) == [(0, 3, P)]


def test_decode_mode_ignores_what_was_recorded() -> None:
    steps = steps_of(trace_of([P, P, D]), mode="decode")
    assert spans(steps) == [(0, 1, D), (1, 2, D), (2, 3, D)]
    assert steps.note == ""


def test_max_tokens_cuts_the_last_step() -> None:
    trace = trace_of([P, P, P, D, D])
    assert spans(steps_of(trace, max_tokens=4)) == [(0, 3, P), (3, 4, D)]
    assert spans(steps_of(trace, max_tokens=4, verify=2)) == [(0, 3, V), (3, 4, V)]
    assert spans(steps_of(trace, max_tokens=99)) == spans(steps_of(trace))


def test_a_short_cut_does_not_make_a_trace_teacher_forced() -> None:
    """The first two tokens are a prompt, but the trace goes on with decode: they stay a prefill."""
    assert spans(steps_of(trace_of([P, P, P, D]), max_tokens=2)) == [(0, 2, P)]


@pytest.mark.parametrize("options", [{}, {"mode": "decode"}, {"mode": "recorded"}, {"verify": 3}])
def test_every_token_is_in_one_step(options) -> None:
    random = np.random.default_rng(1)
    phases, sequences = random.choice([P, D, V, U], 200).tolist(), np.sort(random.integers(0, 20, 200)).tolist()
    steps = steps_of(trace_of(phases, sequences), **options)
    assert steps.begin_S[0] == 0
    assert steps.end_S[-1] == 200
    assert (steps.end_S[:-1] == steps.begin_S[1:]).all()
    assert all(len({*sequences[begin:end]}) == 1 for begin, end, _ in spans(steps))


def test_steps_know_what_they_emit() -> None:
    """What stays of each verify step; where the trace says nothing, all of it."""
    trace = replace(trace_of([P, P, V, V, V, V, D]), step_T=np.array([0, 0, 1, 1, 1, 2, 3], np.int32))
    assert steps_of(trace).kept_S.tolist() == [2, 3, 1, 1]
    marked = steps_of(replace(trace, kept_T=np.array([1, 1, 1, 1, 0, 1, 1], np.uint8)))
    assert marked.kept_S.tolist() == [2, 2, 1, 1]
    assert marked.first(2).kept_S.tolist() == [2, 2]
    assert steps_of(replace(trace, kept_T=np.array([1, 1, 1, 1, 0, 1, 1], np.uint8)), max_tokens=5).kept_S[-1] == 2


@pytest.mark.parametrize("options", [{}, {"mode": "recorded"}, {"mode": "decode"}, {"verify": 2}])
def test_an_empty_trace_has_no_steps(options) -> None:
    assert spans(steps_of(trace_of([]), **options)) == []


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"mode": "prefill"}, "auto, recorded, decode"),
        ({"verify": -1}, "verify must be at least 0"),
        ({"verify": 2, "mode": "decode"}, "verify 2 makes steps of its own, so replay mode 'decode' would go unused"),
        ({"prefill_chunk": 0}, "at least 1"),
        ({"max_tokens": 0}, "at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, names: str) -> None:
    with pytest.raises(InputError, match=names):
        steps_of(trace_of([D]), **options)
