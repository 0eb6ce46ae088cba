"""`hetsched compare` and `hetsched simulate` as a user calls them."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from hetsched.cli import main
from hetsched.machine.gallery import machine
from hetsched.machine.host_cost import KnownHost
from hetsched.machine.profile import HostCost
from hetsched.machine.profile_yaml import save_profile
from hetsched.replay import Comparison, compare, replay_one
from hetsched.replay.single import RecordingScheduler
from hetsched.replay.study import Study
from hetsched.report.compare_plot import plot_comparison
from hetsched.report.simulate_gantt import COLUMNS, layers_drawn
from hetsched.report.simulate_view import time_of
from tests.documents import document_of
from tests.replay.compare_made import LAYERS, MACHINE, TOP_K, geometry, model_file, random_trace, trace_file

ROW = ["hardware", "gpu_fraction", "gpu_bytes", "strategy", "step_s", "tokens_per_s", "hit_rate", "late_share"]
ROW += [
    "bytes_per_token",
    "wasted_bytes_per_token",
    "stall_s_per_token",
    "decision_s_per_token",
    "host_s_per_token",
    "efficiency",
    "lossless",
]


@pytest.fixture
def files(tmp_path) -> list[str]:
    arguments = ["--trace", trace_file(tmp_path), "--model", model_file(tmp_path), "--hardware", MACHINE]
    return [*map(str, arguments), "--decision", "0.00002", "--bound-windows", "1"]


def out_of(capfd, *arguments: str, code: int = 0) -> str:
    assert main(list(arguments)) == code
    return capfd.readouterr().out


def test_json_is_the_contract(files, capfd, tmp_path):
    """One document on standard output, with the fields that others rely on."""
    asked = ["compare", *files, "--strategies", "cpu-only,hetsched", "--gpu-fraction", "0.25,0.5", "--json"]
    text = out_of(capfd, *asked)
    document = document_of(text)
    assert document["schema"] == "hetsched-compare/1"
    assert document["trace"].endswith("trace.npz")
    assert document["model"] == tmp_path.name  # the folder of its config.json
    assert document["fit_sequences"] == 0.5
    assert len(document["rows"]) == 4
    for row in document["rows"]:
        assert set(ROW) <= set(row)
        assert row["lossless"] is True
    for bound in document["bounds"]:
        assert {"hardware", "gpu_fraction", "step_s", "kind"} <= set(bound)
    assert {bound["kind"] for bound in document["bounds"]} == {"clairvoyant", "all-resident"}
    assert (
        out_of(capfd, "compare", *files, "--strategies", "cpu-only,hetsched", "--gpu-fraction", "0.25,0.5", "--json")
        == text
    )


def test_csv_and_markdown_say_the_same(files, capfd):
    shown = ["compare", *files, "--strategies", "static-frequency,cpu-only"]
    document = document_of(out_of(capfd, *shown, "--json"))
    read = list(csv.DictReader(io.StringIO(out_of(capfd, *shown, "--csv"))))
    assert [row["strategy"] for row in read] == [row["strategy"] for row in document["rows"]]
    assert [float(row["tokens_per_s"]) for row in read] == [row["tokens_per_s"] for row in document["rows"]]
    text = out_of(capfd, *shown, "--markdown")
    best = document["rows"][0]
    assert f"| **{best['strategy']}** | {best['tokens_per_s']:.1f} |" in text


def test_the_table_names_its_source(files, capfd):
    """Figures from a datasheet are labelled so, and the notes say what was charged and carried over."""
    text = out_of(capfd, "compare", *files, "--strategies", "static-frequency,cpu-only")
    lines = " ".join(text.split())
    for part in ("simulated on a profile whose figures are datasheet", "every decision is charged 20 µs"):
        assert part in lines
    assert "cache is carried over between sequences; no warm-up is left out" in lines
    assert lines.index("1 static-frequency") < lines.index("2 cpu-only")


def test_a_failed_strategy_is_exit_code_one(files, capfd):
    """The others' rows are on standard output, one line about it on standard error."""
    bad = "tests.replay.compare_made:Raises"
    assert main(["compare", *files, "--strategies", f"{bad},cpu-only", "--json"]) == 1
    captured = capfd.readouterr()
    assert [row["strategy"] for row in document_of(captured.out)["rows"]] == ["cpu-only"]
    assert len(captured.err.splitlines()) == 1
    assert "a fault of its own" in captured.err


@pytest.mark.parametrize(
    ("verb", "extra", "message"),
    [
        ("compare", ["--gpu-fraction", "1.5"], "outside 0..1"),
        ("compare", ["--strategies", "hetshed"], "did you mean 'hetsched'"),
        ("compare", ["--fit-sequences", "1"], "fit share"),
        ("compare", ["--model", "gpt-oss-20b"], "name the model"),
        ("compare", ["--decision", "soon"], "neither 'measured' nor seconds"),
        ("compare", ["--host", "soon"], "neither 'measured', 'none' nor seconds"),
        ("simulate", ["--host", "-1"], "neither 'measured', 'none' nor seconds"),
        ("simulate", ["--host", "nan"], "neither 'measured', 'none' nor seconds"),
        ("compare", ["--hardware", "rtx-1"], "unknown machine"),
        ("simulate", ["--gpu-fraction", "-0.1"], "outside 0..1"),
        ("simulate", ["--strategy", "nope"], "unknown policy"),
    ],
)
def test_bad_input_is_one_line(files, capfd, verb, extra, message):
    assert main([verb, *files, *extra]) == 2
    captured = capfd.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not captured.out


@pytest.mark.parametrize(
    ("options", "host_s", "note"),
    [
        ([], 0.0, "is not charged"),  # reproducible as a whole
        (["--host", "none"], 0.0, "is not charged"),
        (["--host", "0.0005"], 5e-4, "charged 500 µs"),
        (["--host", "measured"], 4e-4, "charged 400 µs for the engine itself"),  # what the test's cache holds
        (["--decision", "measured"], 4e-4, "made up for tests"),
        (["--decision", "measured", "--host", "none"], 0.0, "is not charged"),
    ],
)
def test_what_is_charged_for_the_host(files, capfd, options, host_s, note):
    document = document_of(out_of(capfd, "compare", *files, "--strategies", "cpu-only", "--json", *options))
    assert document["rows"][0]["host_s_per_token"] == pytest.approx(LAYERS * host_s)
    assert any(note in said for said in document["notes"])
    simulated = document_of(out_of(capfd, "simulate", *files, "--policy", "cpu-only", "--json", *options))
    assert simulated["stats"]["host_s_per_token"] == pytest.approx(LAYERS * host_s)
    assert simulated["host_charge"] == document["host_charge"]


def test_a_host_that_is_not_known_is_measured_once(files, capfd, tmp_path, monkeypatch):
    """It says so in two lines, and finds it again; what a machine's own profile says goes before."""
    monkeypatch.setenv("HETSCHED_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("hetsched.bench.host_cost.measure_host", lambda: known)
    known = KnownHost(HostCost(2e-4, 1e-4, 3e-4), "now", date.today().isoformat())
    asked = ["simulate", *files, "--policy", "cpu-only", "--json", "--host", "measured"]
    for lines in (2, 0):
        assert main(asked) == 0
        said = capfd.readouterr()
        assert len(said.err.splitlines()) == lines
        assert document_of(said.out)["row"]["host_s_per_token"] == pytest.approx(LAYERS * 2e-4)
    save_profile(replace(machine(MACHINE), host=HostCost(1e-4, 1e-4, 1e-4)), tmp_path / "own.yaml")
    document = document_of(out_of(capfd, *asked, "--hardware", str(tmp_path / "own.yaml")))
    assert document["row"]["host_s_per_token"] == pytest.approx(LAYERS * 1e-4)


def test_plots(files, capfd, tmp_path):
    """A folder gets three pictures; a file name is a prefix and a format."""
    shown = ["compare", *files, "--strategies", "static-frequency,cpu-only", "--gpu-fraction", "0.2,0.5", "--json"]
    out_of(capfd, *shown, "--plot", str(tmp_path / "plots"))
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == [
        "hit_rate.png",
        "tokens_by_bytes.png",
        "tokens_per_s.png",
    ]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in (tmp_path / "plots").iterdir())
    out_of(capfd, *shown, "--plot", str(tmp_path / "fig.svg"))
    assert len(list(tmp_path.glob("fig-*.svg"))) == 3
    (tmp_path / "taken").touch()
    assert main([*shown, "--plot", str(tmp_path / "taken")]) == 2


def test_nothing_to_draw(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_comparison(Comparison([], []), tmp_path)


def test_simulate_adds_up(files, capfd):
    """Parts of the time make up all of it, layers' hit rates the hit rate, and the row is compare's."""
    text = out_of(capfd, "simulate", *files, "--strategy", "hetsched", "--json")
    document = document_of(text)
    assert document["schema"] == "hetsched-simulate/1"
    parts = time_of(document["stats"])
    assert sum(parts.values()) == pytest.approx(document["stats"]["total_s"])
    assert min(parts.values()) >= -1e-12
    assert np.mean(document["hit_rate_by_layer"]) == pytest.approx(document["row"]["hit_rate"])
    rows = document_of(out_of(capfd, "compare", *files, "--strategies", "hetsched", "--json"))["rows"]
    assert document["row"].keys() == rows[0].keys()
    for figure, value in document["row"].items():  # layer by layer, and in one compiled loop: sums in another order
        assert rows[0][figure] == (pytest.approx(value) if isinstance(value, float) else value)


def test_simulate_shows_lanes_and_layers(files, capfd):
    text = out_of(capfd, "simulate", *files)
    for part in ("Where the time of a token goes", "GPU waits for the CPU lane", "LINK", "Hits at demand", "layer 0"):
        assert part in text


def test_layers_drawn_are_those_that_ran():
    """Every lane's line fits, and the experts of the layers drawn stand on the lane that ran them."""
    study = replace(Study.of(random_trace(), geometry(), [MACHINE]), decision_s=2e-5, bound_windows=0)
    report = replay_one(study, "static-frequency", 0.5)
    assert isinstance(report.scheduler, RecordingScheduler)
    assert len(report.moments) == LAYERS
    drawn = layers_drawn(report)
    lanes = {line[:6].strip(): line[6:] for line in drawn[1:4]}
    assert list(lanes) == ["GPU", "LINK", "CPU"]
    assert all(len(line) <= COLUMNS for line in lanes.values())
    assert not lanes["LINK"].strip()
    for moment in report.moments:
        assert len(moment.outcome.plan.runs) == TOP_K
        for run in moment.outcome.plan.runs:
            assert str(run.expert.expert) in lanes[run.lane.value.upper()]


def test_compare_as_an_api_prints(capsys):
    compare(random_trace(), geometry(), hardware=[MACHINE], strategies="cpu-only", bound_windows=0).print()
    assert "cpu-only" in capsys.readouterr().out
