"""Every measure against numbers worked by hand, and intervals against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from hetsched.evaluate.measures import BINS, intervals, measures, values


def quality(cells: float, asked: float, guessed: float, right: float) -> dict[str, np.ndarray]:
    """Sums of one sequence."""
    return {
        "cells": np.array([cells]),
        "asked": np.array([asked]),
        "guessed": np.array([guessed]),
        "right": np.array([right]),
    }


def test_a_table_of_ten_experts() -> None:
    """10 cells: 2 asked for, 3 guessed, 1 right. So 1 hit, 2 false alarms, 1 missed, 6 left alone by both."""
    found = values(quality(10, 2, 3, 1))
    assert found["precision"] == pytest.approx(1 / 3)
    assert found["recall"] == pytest.approx(1 / 2)
    assert found["accuracy"] == pytest.approx(7 / 10)
    assert found["f1_positive"] == pytest.approx(2 / 5)  # 2 * 1 / (3 + 2)
    negative = 2 * (6 / 7) * (6 / 8) / (6 / 7 + 6 / 8)  # of 7 left alone 6 rightly, of 8 not asked for 6 found
    assert found["f1_macro"] == pytest.approx((2 / 5 + negative) / 2)


def test_what_the_published_figures_measure() -> None:
    """Six of 64 guessed, 75.6 % of them rightly: so is the positive F1, accuracy is 95 % and the macro F1 86.5 %."""
    found = values(quality(64_000, 6000, 6000, 4536))
    assert found["precision"] == found["recall"] == found["f1_positive"] == pytest.approx(0.756)
    assert found["accuracy"] == pytest.approx(0.95425)
    assert found["f1_macro"] == pytest.approx(0.8654, abs=5e-5)


def test_calibration_error_is_by_bins() -> None:
    """Two experts forecast at 0.1 of which one came, one at 0.9 that came: (|0.2 - 1| + |0.9 - 1|) / 3 cells."""
    said_B, came_B = np.zeros((2, 1, BINS))
    said_B[0, 1], came_B[0, 1] = 0.2, 1.0
    said_B[0, 13], came_B[0, 13] = 0.9, 1.0
    found = values({**quality(3, 2, 0, 0), "said_B": said_B, "came_B": came_B})
    assert found["calibration_error"] == pytest.approx((0.8 + 0.1) / 3)


def test_caches_and_speed() -> None:
    """Sums are divided once: two sequences of unlike length are not averaged."""
    sums_S = {
        "active": np.array([10.0, 90.0]),
        "hits": np.array([10.0, 45.0]),
        "bytes": np.array([100.0, 500.0]),
        "wasted_bytes": np.array([0.0, 60.0]),
        "tokens": np.array([2.0, 10.0]),
        "decoded": np.array([1.0, 9.0]),
        "decode_s": np.array([0.5, 1.5]),
    }
    found = values(sums_S)
    assert found == {
        "hit_rate": 0.55,
        "bytes_per_token": 50.0,
        "wasted_bytes_per_token": 5.0,
        "tokens_per_s": 5.0,
    }


def test_nothing_counted_is_no_number() -> None:
    found = values(quality(0, 0, 0, 0))
    assert set(found.values()) == {None}
    assert set(intervals(quality(0, 0, 0, 0)).values()) == {None}


def test_one_sequence_has_no_interval() -> None:
    assert set(intervals(quality(10, 2, 3, 1)).values()) == {None}
    twice = {name: np.append(sum_S, 0.0) for name, sum_S in quality(10, 2, 3, 1).items()}  # one that counted nothing
    assert set(intervals(twice).values()) == {None}


def test_equal_sequences_have_an_interval_of_no_width() -> None:
    same = {name: np.repeat(sum_S, 5) for name, sum_S in quality(10, 2, 3, 1).items()}
    for name, interval in intervals(same).items():
        assert interval == pytest.approx((values(same)[name],) * 2)


def test_two_opposite_sequences_span_everything() -> None:
    """A quarter of all draws are twice the same sequence, so the 2.5th and 97.5th percentile are 0 and 1."""
    rates = {"active": np.array([8.0, 8.0]), "hits": np.array([0.0, 8.0])}
    sums_S = {**rates, "bytes": np.zeros(2), "wasted_bytes": np.zeros(2), "tokens": np.ones(2)}
    assert intervals(sums_S)["hit_rate"] == (0.0, 1.0)


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    """Of 400 equally long sequences: mean ± 1.96 standard deviations / sqrt(400), within a tenth; and reproducible."""
    hits_S = np.random.default_rng(1).beta(4, 4, 400) * 100
    sums_S = {"active": np.full(400, 100.0), "hits": hits_S}
    sums_S |= {name: np.ones(400) for name in ("bytes", "wasted_bytes", "tokens")}
    interval = intervals(sums_S)["hit_rate"]
    assert interval is not None
    half = 1.96 * hits_S.std() / 100 / np.sqrt(400)
    assert (interval[1] - interval[0]) / 2 == pytest.approx(half, rel=0.1)
    assert interval[0] < hits_S.mean() / 100 < interval[1]
    assert intervals(sums_S)["hit_rate"] == interval


def test_draws_are_measured_all_at_once() -> None:
    """Sums of any leading shape have measures of that shape."""
    many = {name: np.tile(sum_S, (3, 1)) for name, sum_S in quality(10, 2, 3, 1).items()}
    assert measures(many)["recall"].tolist() == [[0.5]] * 3
