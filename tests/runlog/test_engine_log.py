"""attach(log=...): the same tokens, a log that adds up, nothing in the hot path but copies of numbers."""

from __future__ import annotations

import sys
from collections import Counter

import jsonschema
import numpy as np
import pytest
import torch

import hetsched
from hetsched.cli import main
from hetsched.errors import InputError
from hetsched.explain.again import before
from hetsched.runlog import read_run
from hetsched.runlog.logged import LoggedScheduler
from hetsched.runlog.recording import LayerLog
from hetsched.runlog.writing import header_of
from hetsched.scheduler import Scheduler
from hetsched.testing.models import tiny_moe
from tests.runlog.made import lines_of, schema

MACHINE = {"hardware": "rtx-4060-laptop-8gb", "gpu_memory": "40%", "stand_in_for": "olmoe-1b-7b", "time_scale": 1.0}
FRAMES_A_LAYER = 6  # of Python, that a log adds: two methods, the ring's, and calls of two C functions


@pytest.fixture(scope="module")
def model():
    return tiny_moe()


def text(model, tokens=24):
    torch.manual_seed(0)
    ids = torch.randint(3, 128, (1, 6))
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens)


def test_a_run_is_logged_and_its_tokens_are_the_same(model, tmp_path):
    expected, path = text(model), tmp_path / "run.jsonl"
    with hetsched.attach(model, **MACHINE, log=path) as handle:
        assert torch.equal(text(model), expected)
        assert torch.equal(text(model), expected)
        stats = handle.stats()
    log = read_run(path)
    validator = jsonschema.Draft202012Validator(schema("run-log-1.json"))
    for line in lines_of(path):
        validator.validate(line)
    assert log.header.clock == "emulated"
    assert (len(log.layers), log.end.dropped) == (stats["layers"], 0)
    assert sum(row.hits for row in log.layers) == stats["hits"]
    assert log.end.seconds == pytest.approx(stats["total_s"])
    assert [row.phase for row in log.layers[:4]] == ["prefill"] * 3 + ["decode"]
    assert sum(row.new_request for row in log.layers) == 2 * 3
    known = before(log, len(log.layers) - 1)
    assert known.agreed >= 0.95 * known.decided


def test_without_a_log_there_is_nothing_to_ask(model):
    with hetsched.attach(model, **MACHINE) as handle:
        assert type(handle.scheduler) is Scheduler
        assert handle.run_log is None


def test_resizes_and_writes_are_events(model, tmp_path):
    path = tmp_path / "run.jsonl"
    with hetsched.attach(model, **MACHINE, log=path) as handle:
        text(model, 4)
        handle.resize("20%")
        handle.reload()
        text(model, 4)
    log = read_run(path)
    assert [event.name for event in log.events] == ["reload", "resize"]
    slots = {row.slots for row in log.layers}
    assert len(slots) == 2
    assert len(log.frames) == 2
    for frame in log.frames:
        assert sum(map(len, frame.experts)) <= min(slots)


def test_a_run_that_is_interrupted_leaves_its_log(model, tmp_path):
    path = tmp_path / "run.jsonl"

    def interrupted():
        with hetsched.attach(model, **MACHINE, log=path):
            text(model, 4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_run(path).end.steps == 4


def test_lines_are_made_between_requests(model, tmp_path):
    """So a process that is killed later leaves all requests but its last."""
    path = tmp_path / "run.jsonl"
    with hetsched.attach(model, **MACHINE, log=path):
        text(model, 4)
        assert not read_run(path).layers
        text(model, 4)
        found = read_run(path)
        assert (len(found.layers), found.end) == (4 * 3, None)


def test_a_machine_without_a_gpu_is_logged(model, tmp_path):
    path = tmp_path / "run.jsonl"
    with hetsched.attach(model, hardware="cpu", log=path):
        text(model, 4)
    log = read_run(path)
    assert (log.header.clock, log.header.slots) == ("measured", 0)
    assert {letter for row in log.layers for letter in row.lane} == {"c"}
    assert log.copies() == []


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_touched(model, tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        hetsched.attach(model, **MACHINE, log=tmp_path / "nowhere" / "run.jsonl")
    text(model, 2)


def test_a_layer_costs_a_few_calls_and_no_memory(model, tmp_path):
    """What is deterministic of a log's cost: Python frames of a layer, and arrays that are there beforehand."""
    frames = []
    for more in ({}, {"log": tmp_path / "run.jsonl"}):
        with hetsched.attach(model, **MACHINE, **more) as handle:
            text(model, 12)
            calls = Counter()
            engine = handle.engine
            ring = handle.run_log.ring if more else None
            arrays = (ring.words_I.ctypes.data, ring.seconds_R.ctypes.data) if ring else None
            forward = engine.forward

            def profiled(work, forward=forward, calls=calls):
                sys.setprofile(lambda frame, kind, _: calls.update([_place(frame)] if kind == "call" else []))
                try:
                    return forward(work)
                finally:
                    sys.setprofile(None)

            engine.forward = profiled
            text(model, 12)
            engine.forward = forward
            if ring:
                assert arrays == (ring.words_I.ctypes.data, ring.seconds_R.ctypes.data)
            frames.append(sum(count for place, count in calls.items() if "runlog" in place))
    layers = 12 * 3
    assert frames[0] == 0
    assert 0 < frames[1] <= FRAMES_A_LAYER * layers + 12 * 4  # and a few at the beginning of each step


def _place(frame):
    return frame.f_code.co_filename


def test_a_full_ring_drops_and_counts_until_there_is_time(tmp_path):
    from hetsched.geometry import MoEGeometry
    from hetsched.machine.gallery import machine
    from hetsched.types import Outcome, Phase

    shape = MoEGeometry("small", num_layers=2, num_experts=8, top_k=2, hidden=64, ffn=64)
    profile = machine("rtx-4060-laptop-8gb")
    scheduler = LoggedScheduler(shape, profile, 6 * shape.expert_bytes, clock=lambda: 0.0)
    path = tmp_path / "run.jsonl"
    scheduler.log = LayerLog(path, header_of(scheduler, profile, "emulated"), scheduler, num_words=1024)

    def layers(count):
        for layer in range(count):
            demand = scheduler.demand(layer % 2, np.bincount([1, 5], minlength=8), 1, Phase.DECODE)
            plan = scheduler.step(demand)
            scheduler.observe(Outcome(plan, 1e-3, plan.predicted_s))

    layers(100)
    assert not scheduler.log.is_open
    scheduler.begin_step(new_request=True)
    layers(4)
    scheduler.log.end({})
    log = read_run(path)
    assert log.end.layers == 104
    assert log.end.dropped == 104 - len(log.layers) > 0
    assert [row.step for row in log.layers[-4:]] == [50, 50, 51, 51]


def test_run_logs_what_it_generates_and_explains_it(checkpoint, tmp_path, capsys):
    path = tmp_path / "run.jsonl"
    asked = ["--model", str(checkpoint), "--prompt", "the red cat", "--max-new-tokens", "6", "--greedy"]
    assert main(["run", *asked, "--hardware", MACHINE["hardware"], "--gpu-memory", "40%", "--log", str(path)]) == 0
    log = read_run(path)
    assert log.end.dropped == 0
    last = log.layers[-1]
    capsys.readouterr()
    assert main(["explain", str(path), "--step", str(last.step), "--layer", str(last.layer)]) == 0
    assert "emulated: results really computed" in capsys.readouterr().out
