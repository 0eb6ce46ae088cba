"""Synthetic routing: what is stated is what comes out, and fitting finds it again."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.traces.fit_synth import fit_synth, moments
from hetsched.traces.split import sequence_starts
from hetsched.traces.synth import SynthParams, generate, synthesise
from hetsched.traces.trace import load_trace, report
from tests.traces.test_format import TRACES

SHAPE = {"layers": 4, "experts": 32, "top_k": 4, "tokens": 12_000, "sequences": 40}


def params(**changes: Any) -> SynthParams:
    return SynthParams.uniform(**{**SHAPE, "skew": 0.0, "locality": 0.0, "drift": 0.0, **changes})


def counts(wanted: SynthParams, seed: int = 0) -> tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]:
    """All choices, and those of each sequence."""
    pieces = list(generate(wanted, seed))
    by_sequence = [np.concatenate([e for s, e in pieces if s == i]) for i in range(wanted.sequences)]
    return np.concatenate(by_sequence), by_sequence


def test_one_choice_follows_zipf() -> None:
    """With top-1 and nothing else, shares are r ** -skew, normalised."""
    chosen_TLK, _ = counts(params(top_k=1, skew=1.0, experts=8, tokens=20_000))
    zipf_E = np.arange(1, 9) ** -1.0
    for layer in range(4):
        share_E = np.sort(np.bincount(chosen_TLK[:, layer, 0], minlength=8))[::-1] / 20_000
        np.testing.assert_allclose(share_E, zipf_E / zipf_E.sum(), atol=0.012)


def test_one_choice_repeats_with_the_stated_probability() -> None:
    """Top-1: a token repeats with p + (1 - p) / E, and the first of a sequence with 1 / E only."""
    _, by_sequence = counts(params(top_k=1, locality=0.6, experts=8, tokens=20_000, sequences=4_000))
    repeats = np.mean([(s[1:] == s[:-1]).mean() for s in by_sequence])
    assert repeats == pytest.approx(0.6 + 0.4 / 8, abs=0.02)
    firsts = np.array([b[0] == a[-1] for a, b in pairwise(by_sequence)])
    assert firsts.mean() == pytest.approx(1 / 8, abs=0.02)


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_drift_moves_the_favourite(drift: float) -> None:
    """Without drift all sequences share the favourite expert; with drift 1 they agree as chance would have it."""
    _, by_sequence = counts(params(skew=2.0, drift=drift))
    favourite_SL = np.array([[np.bincount(s[:, layer].ravel()).argmax() for layer in range(4)] for s in by_sequence])
    agree = np.mean(favourite_SL[1:] == favourite_SL[:-1])
    assert agree == 1.0 if drift == 0 else agree < 0.15


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    """Valid files with the parameters in the meta object; another seed gives another trace."""
    wanted = params(skew=0.8, locality=0.3, drift=0.4, tokens=1_001, sequences=7)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthesise(wanted, seed, tmp_path / name)
        assert report(tmp_path / name) == []
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
    trace = load_trace(tmp_path / "a")
    assert (trace.num_tokens, len(sequence_starts(trace)) - 1) == (1_001, 7)
    assert trace.meta["synthetic"]["skew"] == [0.8] * 4


@pytest.mark.parametrize(
    ("skew", "locality", "drift", "experts", "top_k"),
    [(0.8, 0.3, 0.4, 32, 4), (1.5, 0.6, 0.1, 64, 6), (0.5, 0.1, 0.8, 64, 6), (1.0, 0.0, 0.0, 16, 2)],
)
def test_fitting_finds_the_parameters(
    tmp_path: Path, skew: float, locality: float, drift: float, experts: int, top_k: int
) -> None:
    """Within 0.05 for skew and locality of every layer, 0.12 for drift of a layer and 0.05 for its mean."""
    wanted = params(skew=skew, locality=locality, drift=drift, experts=experts, top_k=top_k, tokens=16_000)
    synthesise(wanted, 3, tmp_path / "t.npz")
    found = fit_synth(load_trace(tmp_path / "t.npz"))
    assert (found.layers, found.experts, found.top_k, found.tokens, found.sequences) == (4, experts, top_k, 16_000, 40)
    np.testing.assert_allclose(found.skew_L, skew, atol=0.05)
    np.testing.assert_allclose(found.locality_L, locality, atol=0.05)
    np.testing.assert_allclose(found.drift_L, drift, atol=0.12)
    assert np.mean(found.drift_L) == pytest.approx(drift, abs=0.05)


def test_layers_are_fitted_apart(tmp_path: Path) -> None:
    wanted = SynthParams(3, 32, 4, 12_000, 40, (0.3, 1.0, 2.0), (0.5, 0.0, 0.2), (0.0, 0.5, 0.2))
    synthesise(wanted, 0, tmp_path / "t.npz")
    found = fit_synth(load_trace(tmp_path / "t.npz"))
    np.testing.assert_allclose(found.skew_L, wanted.skew_L, atol=0.06)
    np.testing.assert_allclose(found.locality_L, wanted.locality_L, atol=0.05)
    np.testing.assert_allclose(found.drift_L, wanted.drift_L, atol=0.15)


def test_what_cannot_be_seen_is_no_drift(tmp_path: Path) -> None:
    """One sequence, or no skew: nothing to drift against. Sequences of one token are fitted too."""
    for name, wanted in (("one", params(skew=1.0, sequences=1)), ("even", params())):
        synthesise(wanted, 0, tmp_path / name)
        assert fit_synth(load_trace(tmp_path / name)).drift_L == (0.0,) * 4
    synthesise(params(tokens=50, sequences=50), 0, tmp_path / "short")
    assert fit_synth(load_trace(tmp_path / "short")).locality_L == (0.0,) * 4


@pytest.mark.parametrize("name", ["gpt-oss-20b.decode.npz", "deepseek-v2-lite.esft.npz"])
def test_a_synthetic_twin_has_the_moments_of_the_real_trace(tmp_path: Path, name: str) -> None:
    """Concentration and repeats of every layer within 0.01, agreement between sequences within 0.04."""
    if not (TRACES / name).exists():
        pytest.skip(f"no {name} in {TRACES}; set HETSCHED_TRACES to the folder of recorded traces")
    real = load_trace(TRACES / name)
    synthesise(fit_synth(real), 1, tmp_path / "t.npz")
    twin = load_trace(tmp_path / "t.npz")
    ours, theirs = moments(twin, sequence_starts(twin)), moments(real, sequence_starts(real))
    np.testing.assert_allclose(ours.concentration_L, theirs.concentration_L, atol=0.01)
    np.testing.assert_allclose(ours.repeat_L, theirs.repeat_L, atol=0.01)
    np.testing.assert_allclose(ours.spread_L, theirs.spread_L, atol=0.04)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skew": -1}, "skew is -1"),
        ({"skew": 9}, "skew is 9"),
        ({"locality": 1.1}, "locality is 1.1"),
        ({"drift": float("nan")}, "drift is nan"),
        ({"top_k": 33}, "top_k is 33; it must lie in 1..32"),
        ({"sequences": 13_000}, "sequences is 13000; it must lie in 1..12000"),
        ({"layers": 0}, "layers is 0"),
    ],
)
def test_impossible_parameters(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        params(**changes)
