"""Forecasters are asked before they are told, and judged by hand-worked numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hetsched.evaluate.foresight import CHUNK, foresee, perfect
from hetsched.evaluate.measures import BINS, values
from hetsched.traces.trace import RoutingTrace
from tests.evaluate.made import Scripted, bench
from tests.traces.made import made


def routed(*chosen: tuple[int, int], sequences: int = 1) -> RoutingTrace:
    """Tokens of one layer of 4 experts."""
    experts_TLK = np.array(chosen, np.int16)[:, None, :]
    sequence_T = (np.arange(len(chosen)) * sequences // len(chosen)).astype(np.int32)
    return RoutingTrace(experts_TLK, sequence_T, np.ones(len(chosen), np.uint8), 4)


def test_it_is_asked_of_a_layer_before_it_is_told() -> None:
    """Layer by layer: of the nth visit it is asked when it has been told of n before it, never of itself."""
    trace = made(tokens=30, sequences=3)
    scripted = Scripted([0.1] * 8)
    foresee(scripted, bench(trace, fit_sequences=0.0), 2)
    visits = 30 * trace.num_layers
    assert scripted.asked_after == list(range(visits))
    assert len(scripted.told) == visits
    assert scripted.history is None


def test_history_is_the_first_half() -> None:
    trace, scripted = made(tokens=40, sequences=4), Scripted([0.1] * 8)
    foresight = foresee(scripted, bench(trace), 2)
    assert scripted.history.num_tokens == 20
    assert len(foresight.guesses_TLG) == 20


def test_guesses_and_sums_by_hand() -> None:
    """It always says 3, then 0 (of equals the lower number): right 1, 2 and 0 times in two sequences."""
    trace = routed((0, 1), (3, 0), (1, 2), sequences=3)
    foresight = foresee(Scripted([0.5, 0.2, 0.5, 0.9]), bench(trace, fit_sequences=0.0), 2)
    assert foresight.guesses_TLG[:, 0].tolist() == [[3, 0]] * 3
    assert foresight.sums_S["right"].tolist() == [1, 2, 0]
    assert foresight.sums_S["asked"].tolist() == foresight.sums_S["guessed"].tolist() == [2, 2, 2]
    assert foresight.sums_S["cells"].tolist() == [4, 4, 4]
    assert foresight.right_L.tolist() == [3]
    # in bins of 1/15: 0.2 in bin 3, 0.5 in 7, 0.9 in 13; in the first sequence experts 0 and 1 came
    said_B, came_B = np.zeros((2, BINS))
    said_B[[3, 7, 13]], came_B[[3, 7]] = (0.2, 1.0, 0.9), 1.0
    assert np.allclose(foresight.sums_S["said_B"][0], said_B)
    assert np.allclose(foresight.sums_S["came_B"][0], came_B)
    first = {name: sum_S[:1] for name, sum_S in foresight.sums_S.items()}
    assert np.isclose(values(first)["calibration_error"] or 0, (0.8 + 0.0 + 0.9) / 4)


def test_warm_up_tokens_are_guessed_and_not_judged() -> None:
    trace = routed((0, 1), (3, 0), (3, 0), (3, 0), sequences=2)
    foresight = foresee(Scripted([0.5, 0.2, 0.5, 0.9]), bench(trace, fit_sequences=0.0), 2, warm_up=1)
    assert (foresight.guesses_TLG >= 0).all()
    assert foresight.sums_S["right"].tolist() == [2, 2]
    assert foresight.sums_S["asked"].tolist() == [2, 2]
    assert foresight.sums_S["came_B"].sum() == 4


def test_steps_of_several_tokens_are_observed_and_not_judged() -> None:
    """Three tokens of prefill, then two of decode."""
    trace = routed((0, 1), (1, 2), (0, 3), (3, 0), (3, 0))
    trace = replace(trace, phase_T=np.array([0, 0, 0, 1, 1], np.uint8))
    scripted = Scripted([0.5, 0.2, 0.5, 0.9])
    foresight = foresee(scripted, bench(trace, fit_sequences=0.0, replay="recorded"), 2)
    assert [tokens for _, _, tokens in scripted.told] == [3, 1, 1]
    assert scripted.asked_after == [1, 2]
    assert (foresight.guesses_TLG[:3] == -1).all()
    assert foresight.sums_S["right"].tolist() == [4]
    assert foresight.sums_S["asked"].tolist() == [4]


def test_more_tokens_than_a_chunk() -> None:
    """Chunks change nothing: the sums are those of a plain count."""
    trace = made(tokens=2 * CHUNK + 7, sequences=5)
    says_E = np.random.default_rng(0).random(8)
    foresight = foresee(Scripted(says_E), bench(trace, fit_sequences=0.0), 3)
    best = set(np.argsort(-says_E)[:3].tolist())
    right_T = [sum(len(best & set(row.tolist())) for row in rows) for rows in trace.experts_TLK]
    plain = [sum(r for r, s in zip(right_T, trace.sequence_T, strict=True) if s == number) for number in range(5)]
    assert foresight.sums_S["right"].tolist() == plain


def test_the_oracle_is_always_right() -> None:
    foresight = perfect(bench(made(tokens=30, sequences=3), fit_sequences=0.0), 6)
    found = values(foresight.sums_S)
    assert found["precision"] == found["recall"] == found["f1_macro"] == found["accuracy"] == 1.0
    assert found["calibration_error"] == 0.0
    assert foresight.guesses_TLG.shape[2] == 2  # no more than are asked for
