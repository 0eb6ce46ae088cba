"""Profile files: what is saved loads again, and a wrong file says all that is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hetsched.cost.model import CostModel
from hetsched.errors import InputError
from hetsched.machine import gallery
from hetsched.machine.profile import DenseTable, ExpertShape, HardwareProfile, HostCost, LatencyTable, Source
from hetsched.machine.profile_yaml import load_profile, save_profile
from hetsched.machine.yaml_lines import FileError

GOOD = """\
schema: hetsched-profile/1
name: box
date: 2026-01-31
source: datasheet
cpu:
  name: a CPU
  capacity_bytes: {value: 64, unit: GiB}
  read_bytes_per_s: {value: 40, unit: GB/s, source: measured}
  flops_per_s: {value: 1, unit: TFLOP/s}
  call_s: {value: 8, unit: us}
"""
APART = "  per_expert_s: {value: 2, unit: us}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "profile.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> dict[str, tuple[int, str]]:
    """Key -> (line, text) of every problem of a file."""
    with pytest.raises(FileError) as caught:
        load_profile(write(folder, text))
    return {problem.key: (problem.line, problem.text) for problem in caught.value.problems}


def measured() -> HardwareProfile:
    """A gallery machine with a bit of everything that a measured profile holds."""
    shape = ExpertShape(2048, 768, "bf16")
    table = LatencyTable(
        shape, (1, 2, 4), (4e-4, 4.3e-4, 5.1e-4), (3e-4, 4e-4, 5e-4), (5e-4, 5e-4, 6e-4), Source.MEASURED, "k@1"
    )
    base = gallery.machine("rtx-4090")
    tables = (table, replace(table, copy_busy=True), replace(table, marginal=True))
    cpu = replace(base.cpu, tables=tables, dense=(DenseTable("m", (1, 8), (1e-4, 2e-4)),))
    return replace(
        base,
        cpu=cpu,
        host=HostCost(4e-4, 3e-4, 6e-4),
        reasons={**base.reasons, "host.layer_s": "with a stopwatch"},
        source=Source.MEASURED,
        provenance={"gpu.call_s": Source.EMULATED},
        fingerprint={"cpu": "a CPU", "cores": 16},
    )


@pytest.mark.parametrize("name", gallery.machines())
def test_saved_profile_loads_equal(name: str, tmp_path: Path) -> None:
    """Nothing of a profile is lost or rounded by its file."""
    profile = gallery.machine(name)
    save_profile(profile, tmp_path / "p.yaml")
    assert load_profile(tmp_path / "p.yaml") == profile


def test_measured_profile_loads_equal(tmp_path: Path) -> None:
    """Tables, percentiles, provenance and fingerprint survive too."""
    save_profile(measured(), tmp_path / "p.yaml")
    assert load_profile(tmp_path / "p.yaml") == measured()


def test_every_figure_has_unit_and_source(tmp_path: Path) -> None:
    """Each number of a saved machine file says its unit and how it was obtained."""
    save_profile(measured(), tmp_path / "p.yaml")
    document = yaml.safe_load((tmp_path / "p.yaml").read_text(encoding="utf-8"))
    figures = [document["pinnable_bytes"], *document["contention"].values(), *document["h2d"].values()]
    figures += [value for key in ("cpu", "gpu") for value in document[key].values() if isinstance(value, dict)]
    assert len(figures) > 12
    assert all({"value", "unit", "source"} <= set(figure) for figure in figures)


def test_units_are_converted(tmp_path: Path) -> None:
    """A figure may use any multiple of its base unit; provenance of single figures is kept."""
    profile = load_profile(write(tmp_path, GOOD))
    assert profile.cpu.capacity_bytes == 64 * 2**30
    assert profile.cpu.per_expert_s == pytest.approx(8e-6)
    assert (profile.cpu.read_bytes_per_s, profile.cpu.flops_per_s) == (40e9, 1e12)
    assert profile.provenance == {"cpu.read_bytes_per_s": Source.MEASURED}


def test_a_file_of_calls_per_expert_keeps_its_meaning(tmp_path: Path) -> None:
    """Without per_expert_s, call_s is what every expert takes, and its source goes with it; the rest of a layer ten."""
    profile = load_profile(write(tmp_path, GOOD.replace("unit: us}", "unit: us, source: measured}")))
    assert (profile.cpu.call_s, profile.cpu.per_expert_s) == pytest.approx((0.0, 8e-6))
    assert profile.cpu.dense_call_s == pytest.approx(8e-5)
    assert profile.provenance["cpu.per_expert_s"] is Source.MEASURED
    assert "cpu.call_s" not in profile.provenance
    save_profile(profile, tmp_path / "again.yaml")
    assert load_profile(tmp_path / "again.yaml") == profile
    geometry = gallery.model("olmoe-1b-7b")
    before, after = CostModel(profile, geometry), CostModel(load_profile(write(tmp_path, GOOD + APART)), geometry)
    assert float(before.cpu_s(1) - after.cpu_s(1)) == pytest.approx(6e-6)
    assert after.cpu_call_s() - before.cpu_call_s() == pytest.approx(8e-6)
    assert before.dense_s(1) == after.dense_s(1)


def test_all_problems_are_reported_at_once_by_key_and_line(tmp_path: Path) -> None:
    """Range, unit, type, source, date, missing and unknown keys: one run finds them all, each with its line."""
    text = """\
schema: hetsched-profile/1
date: yesterday
source: measured
colour: blue
cpu:
  name: a CPU
  capacity_bytes: {value: -3, unit: GiB}
  read_bytes_per_s: {value: 40, unit: GB}
  flops_per_s: {value: fast, unit: TFLOP/s}
  cal_s: {value: 8, unit: us}
unified_memory: maybe
h2d:
  latency_s: {value: 10, unit: us, source: guessed}
  bytes_per_s: {value: 25, unit: GB/s}
"""
    found = problems(tmp_path, text)
    lines = {key: line for key, (line, _) in found.items()}
    assert lines == {
        "name": 1,
        "date": 2,
        "colour": 4,
        "cpu.capacity_bytes": 7,
        "cpu.read_bytes_per_s": 8,
        "cpu.flops_per_s.value": 9,
        "cpu.cal_s": 10,
        "cpu.call_s": 6,
        "unified_memory": 11,
        "h2d.latency_s": 13,
        "": 1,
    }
    assert "call_s" in found["cpu.cal_s"][1]
    assert found["cpu.capacity_bytes"][1] == "is -3 GiB; allowed: 64 MiB to 16 TiB"
    assert "GB/s" in found["cpu.read_bytes_per_s"][1]
    assert "come together" in found[""][1]


TABLE = """\
  tables:
  - shape: {hidden: 2048, ffn: 768, dtype: bf16}
    tokens: [1, 2, 4]
    median_s: [0.0005, 0.0006, 0.0008]
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("[1, 2, 4]", "[1, 4, 2]", 13, "ascend"),
        ("[1, 2, 4]", "[1, 2]", 12, "3 values for 2"),
        ("[0.0005, 0.0006, 0.0008]", "[0.0005, -1, 0.0008]", 14, "seconds from"),
        ("[0.0005, 0.0006, 0.0008]", "[0.0005, 0.0006, 0.0002]", 12, "less than half at 4 tokens"),
        ("[0.0005, 0.0006, 0.0008]", "[0.0001, 0.0006, 0.0008]", 12, "from a cache"),
        ("dtype: bf16", "dtype: bf17", 12, "allowed: awq"),
        ("hidden: 2048", "hidden: 0.5", 12, "whole number"),
        ("    tokens", "    p10_s: [0.0006, 0.0006, 0.0006]\n    tokens", 12, "p10_s <= median_s"),
    ],
)
def test_facts_of_a_latency_table(old: str, new: str, line: int, words: str, tmp_path: Path) -> None:
    """A table that no machine could produce is refused: order, lengths, ranges, cliffs, weights out of a cache."""
    assert load_profile(write(tmp_path, GOOD + TABLE)).cpu.tables[0].tokens_P == (1, 2, 4)
    found = problems(tmp_path, GOOD + TABLE.replace(old, new))
    assert any(at == line and words in text for at, text in found.values()), found


HOST = """\
host:
  layer_s: {value: 400, unit: us, note: with a stopwatch}
  p10_s: {value: 300, unit: us}
  p90_s: {value: 600, unit: us}
"""


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("value: 400", "value: -400", "host.layer_s", "is -400 us; allowed: 0 µs to 100 ms"),
        ("value: 600, unit: us", "value: 6, unit: s", "host.p90_s", "allowed: 0 µs to 100 ms"),
        ("value: 400", "value: nan", "host.layer_s.value", "must be a number"),
        ("400, unit: us", "400, unit: GB", "host.layer_s", "unit 'GB'"),
        ("value: 400", "value: 200", "host", "p10_s <= layer_s"),
        ("  p10_s: {value: 300, unit: us}\n", "", "host.p10_s", "is missing"),
        ("layer_s", "layers_s", "host.layers_s", "layer_s"),
    ],
)
def test_the_hosts_own_time(old: str, new: str, key: str, words: str, tmp_path: Path) -> None:
    """Read with its spread and how it was measured; what cannot be is refused by key."""
    profile = load_profile(write(tmp_path, GOOD + HOST))
    assert profile.host == HostCost(*(pytest.approx(s) for s in (4e-4, 3e-4, 6e-4)))
    assert profile.reasons["host.layer_s"] == "with a stopwatch"
    assert words in problems(tmp_path, GOOD + HOST.replace(old, new))[key][1]


def test_pinned_memory_is_part_of_host_memory(tmp_path: Path) -> None:
    """More pinnable than present is refused."""
    found = problems(tmp_path, GOOD + "pinnable_bytes: {value: 65, unit: GiB}\n")
    assert found["pinnable_bytes"][0] == 11


@pytest.mark.parametrize("text", ["", "- a list", "schema: other/1\nname: x", "a: [1, 2", "name: x"])
def test_what_is_no_profile_says_so(text: str, tmp_path: Path) -> None:
    """Wrong schema, wrong shape and broken YAML are input errors with a line, never a traceback."""
    with pytest.raises(FileError, match=r"line \d"):
        load_profile(write(tmp_path, text))


def test_missing_file_is_an_input_error(tmp_path: Path) -> None:
    """A path that is not there names itself."""
    with pytest.raises(InputError, match="nowhere"):
        load_profile(tmp_path / "nowhere.yaml")


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving is atomic: an error while writing changes nothing and leaves no litter."""
    path = tmp_path / "p.yaml"
    save_profile(measured(), path)
    before = path.read_bytes()

    def broken(_: object) -> str:
        raise RuntimeError("disk on fire")

    monkeypatch.setattr("hetsched.machine.yaml_lines.dump_yaml", broken)
    with pytest.raises(RuntimeError):
        save_profile(gallery.machine("t4"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
