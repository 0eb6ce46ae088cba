"""`hetsched timeline`: its file is a Chrome trace, whose slices are the log's seconds.

The schema is written from "Trace Event Format" (Google, catapult project): phases X, C, i and M, `ts` and `dur` in
microseconds, names of processes and threads as metadata.
"""

from __future__ import annotations

import json
from itertools import pairwise

import jsonschema
import pytest

from hetsched.cli import main
from hetsched.runlog.chrome_trace import TRACKS
from tests.runlog.made import lines_of, schema, simulated

PLACE = {"pid": {"type": "integer"}, "tid": {"type": "integer"}}
TIME = {"type": "number", "minimum": 0}


def _event(phase, names, **more):
    known = {"ph": {"const": phase}, "name": names, **PLACE, "args": {"type": "object"}, **more}
    needed = [name for name in known if name != "cat"]
    return {"type": "object", "properties": known, "required": needed, "additionalProperties": False}


TEXT = {"type": "string", "minLength": 1}
TRACE = {
    "type": "object",
    "properties": {
        "traceEvents": {
            "type": "array",
            "items": {
                "oneOf": [
                    _event("X", TEXT, ts=TIME, dur=TIME, cat={"enum": list(TRACKS)}),
                    _event("i", TEXT, ts=TIME, s={"enum": ["g", "p", "t"]}),
                    _event("C", TEXT, ts=TIME, args={"type": "object", "additionalProperties": {"type": "number"}}),
                    _event("M", {"enum": ["process_name", "thread_name", "thread_sort_index"]}),
                ]
            },
        },
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": {"type": "object"},
    },
    "required": ["traceEvents"],
    "additionalProperties": False,
}


@pytest.fixture(
    scope="module", params=[(), ("--strategy", "on-demand-lru"), ("--verify", "3")], ids=["own", "lru", "verify"]
)
def traced(request, tmp_path_factory):
    """A log, and the trace drawn of it."""
    folder = tmp_path_factory.mktemp("traced")
    log = simulated(folder, *request.param)
    assert main(["timeline", str(log), "-o", str(folder / "trace.json")]) == 0
    return log, json.loads((folder / "trace.json").read_text())


def slices(trace, track):
    return [event for event in trace["traceEvents"] if event.get("cat") == track]


def test_it_is_of_the_format(traced):
    jsonschema.Draft202012Validator(TRACE).validate(traced[1])


def test_every_track_has_a_name_and_a_place(traced):
    told = {(e["name"], e["tid"]): e["args"] for e in traced[1]["traceEvents"] if e["ph"] == "M"}
    for tid, track in enumerate(TRACKS, start=1):
        assert told["thread_name", tid] == {"name": track}
        assert told["thread_sort_index", tid] == {"sort_index": tid}
        assert {e["tid"] for e in slices(traced[1], track)} <= {tid}


def test_time_ascends_and_no_slice_overlaps_another(traced):
    for track in TRACKS:
        for one, other in pairwise(slices(traced[1], track)):
            assert one["ts"] <= other["ts"]
            assert round(1000 * (one["ts"] + one["dur"])) <= round(1000 * other["ts"])


def test_lanes_are_as_busy_as_the_log_says(traced):
    log, trace = traced
    stats = lines_of(log)[-1]["stats"]
    busy_s = {track: 1e-6 * sum(event["dur"] for event in slices(trace, track)) for track in TRACKS}
    assert busy_s["GPU"] == pytest.approx(stats["gpu_s"], rel=0.01)
    assert busy_s["host"] == pytest.approx(stats["host_s"], rel=1e-4)
    assert busy_s["LINK in"] == pytest.approx(stats["link_s"], rel=0.1)
    deciding_s = stats["decision_s"] + stats["overlapped_s"]
    assert busy_s["decisions"] == pytest.approx(deciding_s, rel=0.01)
    copies = slices(trace, "LINK in")
    assert len(copies) == stats["demanded_fetches"] + stats["prefetches"]
    end_us = 1e6 * stats["total_s"]
    assert all(event["ts"] + event["dur"] <= end_us + 1 for event in trace["traceEvents"] if event["ph"] == "X")


def test_every_expert_that_ran_is_a_slice_of_its_lane(traced):
    log, trace = traced
    lanes = "".join(line["lane"] for line in lines_of(log) if line["kind"] == "layer")
    ran = [event for event in slices(trace, "GPU") if "expert" in event["args"]]
    assert len(ran) == sum(lane in "rif" for lane in lanes)
    assert len(slices(trace, "CPU")) == sum(lane in "chx" for lane in lanes)
    assert all({"step", "layer", "expert", "tokens", "came"} <= set(event["args"]) for event in ran)


def test_counters_follow_the_steps(traced):
    log, trace = traced
    stats = lines_of(log)[-1]["stats"]
    by_name = {}
    for event in trace["traceEvents"]:
        if event["ph"] == "C":
            by_name.setdefault(event["name"], []).append(event)
    assert set(by_name) == {"hit rate", "slots", "bytes moved in a step"}
    for events in by_name.values():
        assert len(events) == stats["steps"]
        assert [e["ts"] for e in events] == sorted(e["ts"] for e in events)
    assert sum(e["args"]["bytes"] for e in by_name["bytes moved in a step"]) == stats["bytes_moved"]
    assert all(0 <= e["args"]["share"] <= 1 for e in by_name["hit rate"])


def test_what_is_said_of_it(log_path, tmp_path, capsys):
    assert main(["timeline", str(log_path), "-o", str(tmp_path / "t.json"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(schema("timeline-1.json")).validate(document)
    assert document["events"] == len(json.loads((tmp_path / "t.json").read_text())["traceEvents"])


def test_a_log_without_an_end_is_drawn(log_path, tmp_path):
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(log_path.read_bytes()[:20_000])
    assert main(["timeline", str(cut), "-o", str(tmp_path / "t.json")]) == 0
    jsonschema.Draft202012Validator(TRACE).validate(json.loads((tmp_path / "t.json").read_text()))


def test_what_is_no_log_leaves_no_trace(tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    assert main(["timeline", str(bad), "-o", str(tmp_path / "t.json")]) == 2
    assert "line 1: is no header" in capsys.readouterr().err
    assert not (tmp_path / "t.json").exists()
