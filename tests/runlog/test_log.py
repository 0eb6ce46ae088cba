"""A log says what was run, adds up, is bounded, and can be read wherever it was cut."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import replace

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hetsched.cli import main
from hetsched.errors import InputError
from hetsched.policies.static import CpuOnly
from hetsched.runlog import Layer, read_run
from hetsched.runlog.lines import layer_line, layer_of
from hetsched.runlog.writing import BESIDE, RunWriter
from tests.replay.compare_made import MACHINE
from tests.runlog.made import lines_of, schema, simulated


def test_every_line_is_of_the_schema(log_path):
    validator = jsonschema.Draft202012Validator(schema("run-log-1.json"))
    for line in lines_of(log_path):
        validator.validate(line)


def test_it_adds_up_to_the_run_s_own_figures(run_log):
    stats, layers = run_log.end.stats, run_log.layers
    assert len(layers) == run_log.end.layers == stats["layers"]
    assert sum(row.hits for row in layers) == stats["hits"]
    assert sum(len(row.experts) for row in layers) == stats["active"]
    kinds = [move.kind for row in layers for move in row.moves]
    assert (kinds.count("fetch"), kinds.count("prefetch")) == (stats["demanded_fetches"], stats["prefetches"])
    assert stats["prefetches"] > 0
    for name in ("dense_s", "host_s", "predicted_s", "stall_s", "gpu_s", "cpu_s", "link_s"):
        assert sum(getattr(row, name) for row in layers) == pytest.approx(stats[name], abs=1e-6), name
    assert sum(row.measured_s for row in layers) == pytest.approx(stats["makespan_s"], abs=1e-6)
    assert sum(row.decide_s for row in layers) == pytest.approx(stats["decision_s"], abs=1e-6)
    assert sum(row.beside_s for row in layers) == pytest.approx(stats["overlapped_s"], abs=1e-6)
    assert run_log.seconds == pytest.approx(stats["total_s"])


def test_layers_follow_each_other_on_the_clock(run_log):
    before_s = 0.0
    for row in run_log.layers:
        assert row.begin_s == pytest.approx(before_s, abs=1e-8)
        parts_s = row.dense_s + row.host_s + row.decide_s + row.measured_s
        assert row.end_s - row.begin_s == pytest.approx(parts_s, abs=1e-8)
        before_s = row.end_s


def test_moves_lead_from_frame_to_frame(run_log):
    """Residents at the beginning, and every move since, give who is said to hold slots; hits were among them."""
    held = {(layer, e) for layer, ids in enumerate(run_log.header.resident) for e in ids}
    frames = {frame.step: {(l, e) for l, ids in enumerate(frame.experts) for e in ids} for frame in run_log.frames}
    assert len(frames) >= 2
    for row in run_log.layers:
        if row.layer == 0 and row.step in frames:
            assert held == frames[row.step]
        for expert, lane in zip(row.experts, row.lane, strict=True):
            assert ((row.layer, expert) in held) == (lane in "rhi")
        for move in row.moves:
            assert move.out is None or move.out in held
            held.discard(move.out)
            assert (move.layer, move.expert) not in held
            held.add((move.layer, move.expert))
        assert len(held) <= row.slots
    assert held == frames[max(frames)]


def test_the_machine_and_the_model_can_be_made_again(run_log):
    header = run_log.header
    assert header.profile.name == header.machine["name"] == "rtx-4060-laptop-8gb"
    assert header.geometry.expert_bytes * header.slots == header.capacity_bytes
    assert sum(map(len, header.resident)) == header.slots


def test_the_same_run_gives_the_same_log(log_path):
    again = simulated(log_path.parent, name="again.jsonl")
    (first, *rest), (first_again, *rest_again) = lines_of(log_path), lines_of(again)
    assert {**first, "date": ""} == {**first_again, "date": ""}
    assert rest == rest_again


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_log_cut_anywhere_is_read_up_to_there(share, log_path, tmp_path):
    whole = log_path.read_bytes()
    header = whole.index(b"\n") + 1
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(whole[: header + int(share * (len(whole) - 1 - header))])
    found = read_run(cut)
    assert found.end is None
    lines = set(whole.splitlines())  # one may be there whole, but for its end
    kept = [line for line in cut.read_bytes().splitlines() if line in lines]
    assert len(found.layers) == sum(line.startswith(b'{"kind":"layer"') for line in kept)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [], "is empty"),
        (lambda lines: ["{}", *lines[1:]], "line 1: is no header"),
        (lambda lines: [lines[0], "not JSON", *lines[1:]], "line 2: is no JSON"),
        (lambda lines: [lines[0], "[1]", *lines[1:]], "line 2: is list, not an object"),
        (lambda lines: [*lines[:2], '{"kind":"song"}', *lines[2:]], "line 3: kind 'song' is not known"),
        (lambda lines: [lines[0], lines[1].replace('"lane":"', '"lane":"z')], "line 2: 2 experts"),
        (lambda lines: [lines[0], lines[1].replace('"step":0', '"step":-1')], "line 2: step -1"),
        (lambda lines: [lines[0], lines[1].replace('"busy":', '"busier":')], "line 2: 'busy' is missing"),
        (lambda lines: [*lines, lines[1]], "follows the end of the run"),
    ],
)
def test_what_is_no_log_is_refused_by_line(change, said, log_path, tmp_path):
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text("".join(f"{line}\n" for line in change(log_path.read_text().splitlines())))
    with pytest.raises(InputError, match=said) as caught:
        read_run(damaged)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "key", "value", "said"),
    [
        ("layer", "measured_s", 1e308, "1e[+]308 seconds; a run has at most 1e[+]09"),
        ("layer", "begin_s", float("nan"), "nan seconds"),
        ("layer", "tokens", float("inf"), "cannot convert float infinity"),
        ("layer", "tokens", 2**63, "92233720368547758.* a run has at most"),
        ("resident", "experts", [[0, 8], [], []], "expert 8 of 8"),
        ("resident", "experts", [[0]], "1 layers of residents for a model of 3"),
        ("end", "stats", None, "stats is no object"),
        ("end", "tokens", "many", "invalid literal"),
    ],
)
def test_figures_that_no_run_has_are_refused(kind, key, value, said, log_path, tmp_path):
    lines = [json.loads(line) for line in log_path.read_text().splitlines()]
    number, line = next((i, line) for i, line in enumerate(lines) if line["kind"] == kind)
    line[key] = value
    path = tmp_path / "wrong.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=f"line {number + 1}: {said}"):
        read_run(path)


def test_a_layer_survives_its_line(run_log):
    for row in run_log.layers[:50]:
        assert layer_of(json.loads(json.dumps(layer_line(row)))) == row


def test_the_first_layers_are_kept_and_the_rest_counted(run_log, tmp_path):
    header = replace(run_log.header)
    writer = RunWriter(tmp_path / "small.jsonl", header, max_bytes=20_000)
    for row in run_log.layers:
        writer.layers([row])
    for _ in range(500):
        writer.aside(run_log.frames[0])
    writer.end(run_log.end)
    assert min(writer.dropped, writer.dropped_lines) > 0
    found = read_run(tmp_path / "small.jsonl")
    assert found.layers == run_log.layers[: len(found.layers)]
    assert len(found.layers) + writer.dropped == len(run_log.layers)
    assert len(found.frames) + writer.dropped_lines == 500
    end_bytes = len((tmp_path / "small.jsonl").read_bytes().splitlines()[-1]) + 1
    assert (tmp_path / "small.jsonl").stat().st_size <= 20_000 * (1 + 1 / BESIDE) + end_bytes


def test_what_is_not_there_is_refused_with_the_range(run_log):
    last = max(run_log.index)
    with pytest.raises(InputError, match=f"holds steps 0 to {last}"):
        run_log.place(last + 1, 0)
    with pytest.raises(InputError, match=r"layer 3 is not in 0\.\.2"):
        run_log.place(0, 3)
    with pytest.raises(InputError, match=r"expert 8 is not in 0\.\.7"):
        run_log.check_expert(8)
    assert isinstance(run_log.layers[run_log.place(last, 2)], Layer)


class Stops(CpuOnly):
    """A policy that fails midway."""

    name = "stops"

    def plan(self, demand, view):
        if demand.step == 40:
            raise ZeroDivisionError("a fault of its own")
        return super().plan(demand, view)


def test_a_replay_that_fails_leaves_its_log_without_an_end(log_path):
    folder = log_path.parent
    files = ["--trace", str(folder / "trace.npz"), "--model", str(folder / "config.json"), "--hardware", MACHINE]
    log = folder / "stopped.jsonl"
    assert main(["simulate", *files, "--strategy", f"{__name__}:Stops", "--decision", "0", "--log", str(log)]) == 1
    found = read_run(log)
    assert found.end is None
    assert [row.step for row in found.layers[-3:]] == [39, 39, 39]


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked on Windows")
def test_two_runs_do_not_write_one_log(tmp_path, run_log):
    path = tmp_path / "run.jsonl"
    first = RunWriter(path, run_log.header)
    with pytest.raises(InputError, match="being written by another process"):
        RunWriter(path, run_log.header)
    first.layers(run_log.layers[:3])
    first.close()
    assert read_run(path).layers == run_log.layers[:3]
    RunWriter(path, run_log.header).close()
    assert not read_run(path).layers


class _Narrow:
    """A file on a disk that takes a few bytes at a time, and `room` in all."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, text):
        if not self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = min(len(text), 100, self._room)
        self._room -= part
        return self._file.write(text[:part])

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [10**9, 150])
def test_a_log_on_a_full_disk_has_whole_lines(tmp_path, run_log, room):
    path = tmp_path / "run.jsonl"
    writer = RunWriter(path, run_log.header)
    writer._file = _Narrow(writer._file, room)
    if room > 1000:
        writer.layers(run_log.layers)
    else:
        with pytest.raises(InputError, match="No space left"):
            writer.layers(run_log.layers)
    writer.close()
    assert read_run(path).layers == (run_log.layers if room > 1000 else run_log.layers[:0])
