"""Fitting on one trace and scoring another, and strategies with arguments, from Python and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.plugins import plugin
from hetsched.policies.dali import Dali
from hetsched.replay import compare
from hetsched.traces.trace import save_trace
from tests.cli.test_cli import call
from tests.replay.compare_made import EXPERTS, LAYERS, MACHINE, geometry, model_file, random_trace, trace_of

SETTINGS = {"hardware": [MACHINE], "strategies": ["static-frequency"], "decision_s": 0.0, "bound_windows": 0}


def constant(*experts: int, tokens: int = 20) -> object:
    """Every token asks for these experts in every layer."""
    return trace_of(np.tile(np.array(experts), (tokens, LAYERS, 1)), 2)


def test_one_trace_is_fitted_and_all_of_the_other_scored() -> None:
    """Fitted on what is asked for everything hits, fitted on something else nothing does."""
    scored = constant(0, 1)
    for fit, hit_rate in ((constant(0, 1, tokens=6), 1.0), (constant(6, 7, tokens=6), 0.0)):
        compared = compare(scored, geometry(), fit_trace=fit, gpu_fractions=[2 / EXPERTS], **SETTINGS)
        assert compared.rows[0].hit_rate == hit_rate
        facts = compared.facts
        assert (facts["tokens_scored"], facts["sequences_fitted"], facts["sequences_scored"]) == (20, 2, 2)
        assert facts["fit_trace"] == "small"


def test_half_is_fitted_where_nothing_is_said() -> None:
    said, unsaid = (compare(random_trace(), geometry(), **SETTINGS, **share) for share in ({"fit_sequences": 0.5}, {}))
    assert said.rows == unsaid.rows
    assert unsaid.facts["sequences_fitted"] == 3
    assert unsaid.facts["fit_trace"] is None


def test_what_cannot_be_fitted_on() -> None:
    trace = random_trace()
    for given, message in (
        ({"fit_trace": trace}, "scored on what was fitted"),
        ({"fit_trace": random_trace(1), "fit_sequences": 0.5}, "give fit_sequences 0"),
        ({"fit_trace": trace_of(np.zeros((4, LAYERS + 1, 1), int), 2)}, "the trace has 4 MoE layers"),
    ):
        with pytest.raises(InputError, match=message):
            compare(trace, geometry(), **SETTINGS, **given)


def test_on_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """compare and simulate, with an argument of a strategy's; the two ways to say what is fitted exclude each other."""
    fit, scored, hot = tmp_path / "fit.npz", tmp_path / "scored.npz", tmp_path / "hot.csv"
    save_trace(fit, constant(0, 1, tokens=6))
    save_trace(scored, constant(4, 5))
    hot.write_text("".join(f"{layer},{e},9\n" for layer in range(LAYERS) for e in (4, 5)))
    hot_static = f"hetsched.policies.hot_static:HotStatic+profile={hot}"
    common = ["--trace", scored, "--model", model_file(tmp_path), "--hardware", MACHINE, "--gpu-fraction", "0.25"]
    common += ["--decision", "0", "--bound-windows", "0", "--json"]
    named = ["--strategies", f"static-frequency,{hot_static}"]
    code, out, err = call(capsys, "compare", *map(str, [*common, *named, "--fit-trace", fit]))
    assert code == 0, err
    found = json.loads(out)
    assert {row["strategy"]: row["hit_rate"] for row in found["rows"]} == {
        "static-frequency": 0.0,
        f"hot-static+profile={hot}": 1.0,
    }
    assert found["fit_trace"] == str(fit)
    code, out, _ = call(capsys, "simulate", *map(str, [*common, "--strategy", hot_static, "--fit-trace", fit]))
    assert (code, json.loads(out)["row"]["hit_rate"]) == (0, 1.0)
    for wrong in (["--fit-trace", fit, "--fit-sequences", "0.5"], ["--fit-trace", tmp_path / "gone.npz"]):
        code, out, err = call(capsys, "compare", *map(str, [*common, *named, *wrong]))
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_strategies_take_arguments() -> None:
    """Two tunings of one rule beside each other, each under its own label."""
    tuned = plugin("hetsched.policies", "DALI+window=8+depth=3")
    assert isinstance(tuned, Dali)
    assert (tuned.window, tuned.depth, tuned.replaced) == (8, 3, 1)
    names = ["on-demand-lfu+decay=0.5", "on-demand-lfu", "ON-DEMAND-LFU+decay=0.9"]
    compared = compare(random_trace(), geometry(), **{**SETTINGS, "strategies": ",".join(names)})
    assert {row.strategy for row in compared.rows} == {*names[:2], "on-demand-lfu+decay=0.9"}
    for spec, message in (
        ("dali+windows=8", "no argument 'windows'; it takes window, replaced"),
        ("on-demand-lfu+decay=7", "decay is 7"),
        ("cpu-only+x=1", "it takes none"),
        ("dalli+window=8", "dali"),
    ):
        with pytest.raises(InputError, match=message):
            plugin("hetsched.policies", spec)
