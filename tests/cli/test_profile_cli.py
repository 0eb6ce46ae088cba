"""The verbs profile, profiles and doctor: one JSON document on standard output, exit codes, files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hetsched.cli import doctor, profile, profiles
from hetsched.errors import InputError, UnknownNameError
from hetsched.machine import gallery
from hetsched.machine.profile_yaml import load_profile
from hetsched.measure import inventory
from tests.documents import document_of


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSCHED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hetsched.measure.request.QUICK_S", 0.1)
    monkeypatch.setattr("hetsched.measure.experts.MIN_POOL_BYTES", 1 << 16)
    monkeypatch.setattr("hetsched.measure.experts.cache_bytes", lambda: 1 << 16)
    monkeypatch.setattr("hetsched.measure.cpu.read_bytes_per_s", lambda _: 1e13)  # tiny experts stay in a cache


def call(*words: str) -> int:
    """Run one verb as the dispatcher does."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers(required=True)
    for verb in (profile, profiles, doctor):
        verb.add_parser(subparsers)
    args = parser.parse_args(words)
    return int(args.run(args))


def document(capsys: pytest.CaptureFixture[str]) -> Any:
    """All of standard output, which must be one JSON document."""
    return document_of(capsys.readouterr().out)


TINY = ("profile", "--geometry", "hidden=64,ffn=32", "--dtype", "fp32", "--device", "cpu", "--quick")


def test_profile_json_equals_its_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What is printed is what is saved, key by key, and it loads."""
    out = tmp_path / "mine.yaml"
    assert call(*TINY, "--json", "--out", str(out)) == 0
    printed = document(capsys)
    assert printed["schema"] == "hetsched-profile/1"
    assert printed == yaml.safe_load(out.read_text(encoding="utf-8"))
    assert load_profile(out).cpu.tables[0].shape.hidden == 64
    assert 0 < load_profile(out).host.p10_s <= load_profile(out).host.layer_s < 0.1
    assert "processor time" in printed["host"]["layer_s"]["note"]
    assert not {"gpu", "h2d", "d2h", "contention", "pinnable_bytes"} & set(printed)  # nothing is claimed unmeasured


def test_profile_is_cached_and_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --out the profile is found again; the check has rows, median and worst, and fails beyond 10 and 20 %."""
    assert call(*TINY) == 0
    shown = capsys.readouterr()
    assert "call_s" in shown.out
    assert "cache/profiles/" in shown.err
    code = call(*TINY, "--check", "--json")
    found = document(capsys)
    assert found["schema"] == "hetsched-check/1"
    assert [row["n"] for row in found["rows"]] == [3, 6, 12, 24, 48, 96, 192]
    assert set(found["rows"][0]) == {"device", "op", "n", "predicted_s", "measured_s", "error"}
    errors = sorted(abs(row["error"]) for row in found["rows"])
    assert (found["median_error"], found["worst_error"]) == (errors[3], errors[-1])
    assert found["speed"] == pytest.approx(1 + sorted(row["error"] for row in found["rows"])[3])
    assert code == (1 if errors[3] > 0.10 or errors[-1] > 0.20 else 0)


@pytest.mark.parametrize("text", ["hidden=64", "hidden=a,ffn=3", "64x32", "hidden=64,ffn=32,depth=2"])
def test_bad_geometry_says_how_to_write_it(text: str) -> None:
    """The message shows the form."""
    with pytest.raises(InputError, match="hidden=2048,ffn=768"):
        call("profile", "--geometry", text)


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """Machines, models and what was measured here."""
    assert call("profiles", "list", "--json") == 0
    found = document(capsys)
    assert {row["name"] for row in found["machines"]} == set(gallery.machines())
    assert {row["name"] for row in found["models"]} == set(gallery.models())
    assert found["measured"] == []
    assert call("profiles", "list") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in [*gallery.machines(), *gallery.models()])


def test_show_prints_machine_and_model(capsys: pytest.CaptureFixture[str]) -> None:
    """By name or path; an unknown name lists both kinds."""
    assert call("profiles", "show", "rtx-4090", "--json") == 0
    assert document(capsys) == yaml.safe_load(gallery.machines()["rtx-4090"].read_text(encoding="utf-8"))
    assert call("profiles", "show", "gpt-oss-20b", "--json") == 0
    assert document(capsys)["num_experts"] == 32
    assert call("profiles", "show", str(gallery.models()["gpt-oss-20b"])) == 0
    assert "mxfp4" in capsys.readouterr().out
    with pytest.raises(UnknownNameError, match="rtx-4090"):
        call("profiles", "show", "rtx-4091")


def test_show_says_what_a_model_needs_by_format(capsys: pytest.CaptureFixture[str]) -> None:
    """gpt-oss-20b by hand: 24 layers of 32 experts; what cannot be is said so, in the table's place and in JSON's."""
    argv = ("profiles", "show", "gpt-oss-20b", "--format", "bf16,mxfp4,q4_0,q4_k,int4", "--context", "1000")
    assert call(*argv, "--json") == 0
    found = document(capsys)
    rows = {row["format"]: row for row in found["rows"]}
    assert (found["schema"], found["published"], list(rows)) == ("hetsched-needs/1", "mxfp4", argv[4].split(","))
    biases, weights = 2 * 3 * 2880, 3 * 2880**2
    assert rows["bf16"]["host_experts"] == 24 * 32 * (2 * weights + biases)
    assert rows["mxfp4"]["token_experts"] == 24 * 4 * (weights * 17 // 32 + biases)
    assert rows["q4_0"]["expert"] == weights * 18 // 32 + biases
    half_windowed = 2 * 2 * 8 * 64 * 12 * 1000, 2 * 2 * 8 * 64 * 24 * 1000
    assert half_windowed[0] < rows["bf16"]["gpu_kv"] <= half_windowed[1]
    for name in ("bf16", "mxfp4", "q4_0"):
        row = rows[name]
        assert row["gpu"] == row["gpu_dense"] + row["gpu_kv"] == rows["bf16"]["gpu"]
        assert row["token"] == row["token_experts"] + row["token_rest"]
        assert row["gpu_dense"] - row["token_rest"] == 2 * 201088 * 2880  # one row of the input embedding is read
        assert row["lanes"]["cpu"] == "as stored"
    assert "multiple of 256" in rows["q4_k"]["refused"]
    assert "no engine runs it" in rows["int4"]["refused"]
    assert call(*argv) == 0
    text = capsys.readouterr().out
    assert "mxfp4 (published)" in text
    assert "q4_k: experts of gpt-oss-20b cannot be q4_k" in text
    assert "1,000 tokens" in text


def test_show_takes_a_config_for_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A folder with one, as published where no format says otherwise; lanes of what no packed kernel reads."""
    config = {"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 32, "num_local_experts": 4,
              "num_experts_per_tok": 2, "num_hidden_layers": 3, "vocab_size": 10, "num_attention_heads": 2}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert call("profiles", "show", str(tmp_path), "--format", "bf16,awq+group=32", "--json") == 0
    plain, awq = document(capsys)["rows"]
    assert plain["host_experts"] == 12 * 3 * 64 * 32 * 2
    assert plain["lanes"] == {"cpu": "as stored", "gpu": "as stored"}
    assert awq["lanes"]["cpu"] == "unpacked each time"


@pytest.mark.parametrize(
    ("more", "words"),
    [(("--context", "9"), "add --format"), (("--format", "bf16", "--plot", "a.png"), "ask for one"),
     (("--format", "q5_x"), "'q5_x' is not one of"), (("--format", "bf16"), "unknown model 't4'")],
)  # fmt: skip
def test_needs_that_make_no_sense_are_refused(more: tuple[str, ...], words: str) -> None:
    """In one line that says what to do."""
    name = "t4" if "t4" in words else "gpt-oss-20b"
    with pytest.raises(InputError, match=words):
        call("profiles", "show", name, *more)


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_plot_is_written(ending: str, start: bytes, tmp_path: Path) -> None:
    """The format follows the file's ending; another ending is refused."""
    out = tmp_path / f"plot.{ending}"
    assert call("profiles", "show", "rtx-4090", "--plot", str(out)) == 0
    assert out.read_bytes().startswith(start)
    with pytest.raises(InputError, match=r"\.png, \.svg"):
        call("profiles", "show", "rtx-4090", "--plot", str(tmp_path / "plot.gif"))


def test_validate_reports_every_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The whole gallery is valid; a bad file gives exit code 1 and its problems, one a line."""
    paths = [str(path) for path in (*gallery.machines().values(), *gallery.models().values())]
    assert call("profiles", "validate", *paths) == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text("schema: hetsched-profile/1\nname: x\nsource: magic\n", encoding="utf-8")
    capsys.readouterr()
    assert call("profiles", "validate", str(bad), "--json") == 1
    problems = document(capsys)["files"][str(bad)]
    assert {problem["key"] for problem in problems} == {"", "date", "cpu"}
    assert call("profiles", "validate", str(bad)) == 1
    assert capsys.readouterr().out.count("line ") == 3


def test_derive_regenerates_a_gallery_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From its own datasheet, to the byte."""
    out = tmp_path / "again.yaml"
    assert call("profiles", "derive", "rtx-3090", "--out", str(out)) == 0
    assert out.read_text(encoding="utf-8") == gallery.machines()["rtx-3090"].read_text(encoding="utf-8")
    capsys.readouterr()
    assert call("profiles", "derive", "rtx-3090") == 0
    assert capsys.readouterr().out == out.read_text(encoding="utf-8")


def test_diff_shows_figures_and_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    """Only what differs; ratios are second over first."""
    assert call("profiles", "diff", "rtx-3090", "rtx-3090") == 0
    capsys.readouterr()
    assert call("profiles", "diff", "rtx-3090", "rtx-5090", "--json") == 1
    found = {row["key"]: row for row in document(capsys)["differences"]}
    assert found["gpu.read_bytes_per_s"]["ratio"] == pytest.approx(1792 / 936, rel=0.01)
    assert found["h2d.bytes_per_s"]["ratio"] == pytest.approx(2.0, rel=0.01)
    assert "h2d.latency_s" not in found


def test_doctor_here(capsys: pytest.CaptureFixture[str]) -> None:
    """The tests run, so the main job can; every missing piece says what it costs."""
    assert call("doctor", "--json") == 0
    found = document(capsys)
    assert (found["schema"], found["ok"]) == ("hetsched-doctor/1", True)
    items = {item["name"]: item for item in found["items"]}
    assert {"GPU", "CuPy", "torch", "CPU", "instruction sets", "NUMA nodes", "pinned-memory limit"} <= set(items)
    assert all(item["cost"] for item in found["items"] if item["ok"] is False)
    assert items["profiles"]["fix"] == "hetsched profile"


def test_doctor_without_torch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the main job needs and is not here: exit code 1 and the command that adds it."""
    real = inventory.version

    def version(name: str) -> str:
        if name == "torch":
            raise inventory.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(inventory, "version", version)
    assert call("doctor", "--json") == 1
    torch = next(item for item in document(capsys)["items"] if item["name"] == "torch")
    assert (torch["ok"], torch["fix"]) == (False, "pip install torch")


def test_doctor_warns_of_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named in the command that undoes it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    item = next(item for item in inventory.inventory() if item.name == "threads")
    assert (item.ok, item.fix) == (False, "unset OMP_NUM_THREADS")
