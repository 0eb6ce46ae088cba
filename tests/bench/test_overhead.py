"""`hetsched bench --engine-overhead`: what it measures with, what it reports, and its models' true shape."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hetsched.bench.c_function import c_function_seconds
from hetsched.bench.hollow import hollow_model, let_go, timing_only
from hetsched.bench.host_cost import measure_host
from hetsched.bench.overhead import Settings, overhead_document
from hetsched.bench.overhead_case import Case
from hetsched.bench.spans import MEANING
from hetsched.bench.stopwatch import Stopwatch
from hetsched.cli import main
from hetsched.errors import InputError
from hetsched.geometry import MoEGeometry
from hetsched.integrations.transformers import attach
from hetsched.machine import gallery
from hetsched.report.bench_plot import plot_overhead
from hetsched.report.bench_view import overhead_view
from hetsched.scheduler import Scheduler
from tests.documents import document_of

CONTRACT = {"model", "hardware", "layer_overhead_s", "predicted_step_s", "executed_step_s", "error"}


class Ticks:
    """A clock that moves when it is told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_time_inside_is_not_counted_twice() -> None:
    """outer: 1 s, then inner: 2 s, then 4 s of its own; the wrapped functions are themselves again afterwards."""
    clock = Ticks()

    def spend(seconds: float) -> None:
        clock.now_s += seconds

    def outer(it: SimpleNamespace) -> None:
        spend(1.0)
        it.inner()
        spend(4.0)

    it = SimpleNamespace(inner=lambda: spend(2.0), outer=outer)
    before = dict(vars(it))
    with Stopwatch(clock) as watch:
        watch.wrap(it, "inner", "within")
        watch.wrap(it, "outer", "whole")
        it.outer(it)
        aside = threading.Thread(target=it.inner)  # another thread is not timed
        aside.start()
        aside.join()
        assert watch.seconds() == {"within": 2.0, "whole": 5.0}
    assert vars(it) == before


def test_a_function_that_is_not_there_is_an_error() -> None:
    with Stopwatch() as watch, pytest.raises(AttributeError):
        watch.wrap(SimpleNamespace(), "renamed", "label")


def test_a_hollow_model_has_true_shapes_and_no_copy_of_its_experts() -> None:
    """Qwen3-30B-A3B: 128 experts, hidden 2048, ffn 768, bf16, top-8; the host store takes its rows as they are."""
    model = hollow_model("qwen3-30b-a3b", 1, seed=0)
    experts = model.model.layers[0].mlp.experts
    assert experts.gate_up_proj.shape == (128, 2 * 768, 2048)
    assert experts.gate_up_proj.dtype == torch.bfloat16
    assert model.config.num_experts_per_tok == 8
    place = experts.gate_up_proj.untyped_storage().data_ptr()
    with timing_only(), attach(model, hardware="rtx-4090", gpu_memory="5%", policy="cpu-only", time_scale=1) as handle:
        assert handle.engine.store.rows(0).data_ptr() == place
        assert handle.geometry.expert_bytes == 3 * 2048 * 768 * 2
        logits = model(torch.tensor([[3, 5]])).logits
    assert logits.isfinite().all()
    assert handle.stats()["active"] >= 8


def test_models_that_cannot_be_made_are_named() -> None:
    with pytest.raises(InputError, match="nosuch"):
        Case.of("nosuch", "rtx-4090", Settings())
    with pytest.raises(InputError, match="rtx-9"):
        Case.of("qwen3-30b-a3b", "rtx-9", Settings())


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A whole measurement of the demo model, which is not built here, with a strategy that fetches and awaits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETSCHED_CACHE", str(tmp_path_factory.mktemp("empty")))
        ticks: list[tuple[int, int]] = []
        settings = Settings(("demo",), ("rtx-4090",), steps=3, layers=2, policy="on-demand-lru", decision_s=3e-5)
        made = overhead_document(settings, lambda done, total: ticks.append((done, total)))
    assert ticks[-1][0] == ticks[-1][1] == len(ticks)
    return made


def test_the_document_keeps_the_contract(document: dict[str, Any]) -> None:
    (row,) = document_of(json.dumps(document))["rows"]
    assert document["schema"] == "hetsched-bench/1"
    assert document["emulated"]
    assert row.keys() >= CONTRACT
    assert row["model"] == "tiny-random"
    assert "make demo" in row["note"]
    assert (row["steps"], row["layer_calls"], row["active_experts"]) == (3, 6, 4)
    assert row["timed_as"] == "gpt-oss-20b"
    assert row["error_p95"] < 1e-9  # emulated lanes and a charged decision: what was planned is what is executed
    assert row["executed_step_s"] == pytest.approx(row["predicted_step_s"])
    assert row["breakdown_s"].keys() == MEANING.keys()
    assert row["layer_overhead_s"] > 0
    assert 0 < row["host_layer_s"] < 0.1
    assert row["c_function_s"] > 0 < row["c_function_ahead_s"]
    assert row["parts"].keys() == {"door_s", "deciding_s", "launching_s", "learning_s", "finishing_s"}
    assert (row["parts"]["deciding_s"], row["parts"]["learning_s"]) == pytest.approx((3e-5, 3e-5))
    others = sum(row["parts"][part] for part in ("door_s", "launching_s", "finishing_s"))
    assert others == pytest.approx(sum(row["breakdown_s"].values()))  # every label is in one part


def test_the_step_as_a_c_function_is_timed_alone() -> None:
    """By the clock that is given, a layer at a time; a policy in Python has none."""
    shape = MoEGeometry("made", 2, 8, 2, 256, 64)
    ids_L = [[np.array([[1, 5]]), np.array([[0, 7]])]] * 3

    def seconds(policy: str) -> dict[str, float | None]:
        made = Scheduler(shape, gallery.machine("rtx-4090"), 6 * shape.expert_bytes, policy=policy)
        clock = itertools.count()
        return c_function_seconds(made, ids_L, lambda: float(next(clock)))

    assert seconds("on-demand-lru") == {"c_function_s": 1.0, "c_function_ahead_s": 1.0}
    assert seconds("sp-moe") == {"c_function_s": None, "c_function_ahead_s": None}
    assert seconds("hybrimoe") == {"c_function_s": None, "c_function_ahead_s": None}  # looks at router weights


def test_every_part_is_reached(document: dict[str, Any]) -> None:
    """A label that nothing is timed under means that the engine was rewritten and the benchmark was not."""
    (row,) = document["rows"]
    assert [label for label, seconds in row["breakdown_s"].items() if seconds == 0.0] == []


def test_the_host_of_a_profile() -> None:
    """What an engine charges itself on a tiny model: the median, and percentiles around it."""
    known = measure_host()
    assert 0 < known.cost.p10_s <= known.cost.layer_s <= known.cost.p90_s < 0.1
    assert "emulated" in known.how


def test_it_is_shown_and_drawn(document: dict[str, Any], tmp_path: Path) -> None:
    from rich.console import Console

    console = Console(width=100, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    console.print(overhead_view(document))
    text = console.export_text()
    for words in ("tiny-random as gpt-oss-20b", "target 150", "grouping", "make demo"):
        assert words in text
    for suffix in (".png", ".svg", ".pdf"):
        plot_overhead(document, tmp_path / f"plot{suffix}")
        assert (tmp_path / f"plot{suffix}").stat().st_size > 1000


@pytest.mark.parametrize(
    "arguments",
    [
        ["--models", "nosuch"],
        ["--models", "demo", "--hardware", "nosuch"],
        ["--models", "demo", "--demo-as", "nosuch"],
        ["--models", "demo", "--gpu-memory", "lots"],
        ["--decision", "soon"],
        ["--plot", "picture.txt"],
        ["--plot", "nowhere/picture.png"],
    ],
)
def test_bad_input_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--engine-overhead", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "words", [["--faults", "--plot", "x.png"], ["--engine-overhead", "--steps", "3"], ["--cpu", "--tokens", "3"]]
)
def test_an_option_of_another_benchmark_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert words[1] in capsys.readouterr().err


def test_a_hollow_model_that_is_let_go_is_not_copied_when_it_is_detached() -> None:
    """Else gigabytes that were only reserved are written."""
    hollow = hollow_model("olmoe-1b-7b", 1, seed=0)
    with attach(hollow, hardware="rtx-4060-laptop-8gb", gpu_memory="25%", time_scale=1.0):
        let_go(hollow)
    experts = hollow.model.layers[0].mlp.experts
    assert [parameter.numel() for parameter in experts.parameters()] == [0, 0]
