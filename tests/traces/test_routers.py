"""Routers in traces: recorded with hidden states, kept by parts and joins, and replayed by who needs their gates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsched.cli import main
from hetsched.errors import InputError
from hetsched.evaluate import evaluate
from hetsched.forecast.fed import Replayed, configured
from hetsched.geometry import MoEGeometry
from hetsched.integrations.recording import record
from hetsched.machine.gallery import machine
from hetsched.predictor.compact import untrained
from hetsched.predictor.learned import Learned
from hetsched.replay.single import replay_one
from hetsched.replay.study import Study
from hetsched.traces.routers import Routers
from hetsched.traces.split import concat, split
from hetsched.traces.trace import RoutingTrace, load_trace, report, save_trace
from hetsched.types import Demand, Phase
from tests.architectures.test_models import build
from tests.conftest import tiny_moe
from tests.traces.made import made, same
from tests.traces.test_record import GREEDY, PROMPTS

LAYERS, EXPERTS, TOP_K, WIDTH = 6, 12, 3, 16
CONFIG = {
    "model_type": "mixtral",
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "vocab_size": 64,
    "intermediate_size": 8,
}
SHAPE = MoEGeometry("routed", LAYERS, EXPERTS, TOP_K, hidden=WIDTH, ffn=8)


def routed(tokens: int = 120, drift: float = 0.0, seed: int = 0) -> RoutingTrace:
    """Experts are those that random routers choose; from layer to layer hidden states go a way of `drift`."""
    random = np.random.default_rng(seed)
    weight = np.random.default_rng(99).normal(size=(LAYERS, EXPERTS, WIDTH)).astype(np.float32)
    steps = random.normal(size=(tokens, LAYERS, WIDTH))
    steps[:, 1:] *= drift
    hidden_TLH = steps.cumsum(axis=1).astype(np.float16)
    logits_TLE = np.einsum("tlh,leh->tle", hidden_TLH.astype(np.float32), weight)
    flat, zeros = np.zeros((LAYERS, EXPERTS), np.float32), np.zeros((LAYERS, EXPERTS), np.int8)
    routers = Routers(weight, flat, flat, zeros, np.zeros(LAYERS, np.uint8), np.ones((LAYERS, WIDTH), np.float32))
    chosen_TLK = np.argsort(-logits_TLE, axis=2)[:, :, :TOP_K].astype(np.int16)
    plain = made(tokens, LAYERS, EXPERTS, TOP_K)
    return replace(plain, experts_TLK=chosen_TLK, hidden_TLH=hidden_TLH, routers=routers)


def recall(trace: RoutingTrace, forecaster: Any, **more: Any) -> float:
    rows = evaluate("caching-study", trace, SHAPE, forecasters=[forecaster], gpu_fractions=[0.2], **more).rows
    return float(next(row.recall for row in rows if row.forecaster and row.recall is not None))


def test_routers_are_read_as_they_were_saved_and_kept(tmp_path: Path) -> None:
    """By parts, by joins of equal ones; others are dropped."""
    whole = routed()
    save_trace(tmp_path / "t.npz", whole)
    assert same(load_trace(tmp_path / "t.npz"), whole)
    concat(split(whole, 0.5), tmp_path / "again.npz")
    assert same(load_trace(tmp_path / "again.npz"), replace(whole, step_T=None))
    assert whole.routers is not None
    other = replace(whole, routers=whole.routers._replace(bias=whole.routers.bias + 1))
    concat([whole, other], tmp_path / "mixed.npz")
    assert load_trace(tmp_path / "mixed.npz").routers is None


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"router_undo": None}, "no array 'router_undo' beside 'router_weight'"),
        ({"router_weight": np.zeros((2, 3, 4), np.float32)}, "router_weight has shape (2, 3, 4)"),
        ({"router_bias": np.zeros((LAYERS, EXPERTS))}, "router_bias is float64"),
        ({"router_choice": np.full((LAYERS, EXPERTS), -np.inf, np.float32)}, "router_choice has values that are not"),
        ({"hidden": np.zeros((120, LAYERS, 5), np.float16)}, "takes hidden states of 16 numbers, hidden has 5"),
    ],
)
def test_faults_are_found(tmp_path: Path, change: dict[str, Any], wanted: str) -> None:
    arrays = {**routed().arrays(), **change}
    np.savez(tmp_path / "t.npz", **{name: array for name, array in arrays.items() if array is not None})
    assert any(wanted in line for line in report(tmp_path / "t.npz"))


def test_recorded_routers_say_what_was_chosen(tmp_path: Path) -> None:
    """Of every token and layer; and without --hidden there are none."""
    model = tiny_moe()
    record(model, PROMPTS, tmp_path / "with.npz", {}, generate=GREEDY, hidden=True)
    record(model, PROMPTS, tmp_path / "without.npz", {}, generate=GREEDY)
    trace = load_trace(tmp_path / "with.npz")
    assert trace.routers is not None
    assert trace.hidden_TLH is not None
    assert load_trace(tmp_path / "without.npz").routers is None
    for layer in range(trace.num_layers):
        hidden_TH = trace.hidden_TLH[:, layer]
        (gates_TE,) = trace.routers.of(range(layer, layer + 1), layer, hidden_TH, trace.num_experts)
        chosen_TK = np.argsort(-gates_TE, axis=1)[:, : trace.top_k]
        np.testing.assert_array_equal(np.sort(chosen_TK, axis=1), np.sort(trace.experts_TLK[:, layer], axis=1))


def test_a_model_whose_routers_are_no_linear_maps_is_recorded_without(tmp_path: Path) -> None:
    record(build("zaya.ZayaExperts"), PROMPTS[:1], tmp_path / "t.npz", {}, generate=GREEDY, hidden=True)
    trace = load_trace(tmp_path / "t.npz")
    assert trace.width
    assert trace.routers is None
    assert "4 linear maps" in trace.meta["no_routers"]


def test_gates_foresee_what_hidden_states_hold() -> None:
    """All of it where they stay, at any distance; the less the further they go, and the longer the way is."""
    still, going = routed(), routed(drift=0.4)
    first = (LAYERS - 1) / LAYERS  # before the first layer nothing is known
    assert recall(still, "gate-ahead") > 0.97 * first
    near, far = recall(going, "gate-ahead"), recall(going, "gate-ahead", distance=3)
    assert recall(still, "gate-ahead") > near > far > recall(going, "ewma") + 0.05


@pytest.mark.parametrize("drop", ["routers", "hidden_TLH"])
def test_traces_without_them_refuse_in_a_line(drop: str) -> None:
    bare = replace(routed(), **{drop: None})
    with pytest.raises(
        InputError, match=r"needs gates .*record the trace with 'hetsched trace record --hidden'"
    ) as caught:
        recall(bare, "gate-ahead")
    assert "\n" not in str(caught.value)
    study = replace(Study.of(bare, SHAPE, ["rtx-4060-laptop-8gb"]), forecaster="gate-ahead", decision_s=0.0)
    with pytest.raises(InputError, match="needs gates"):
        replay_one(study, "hetsched", 0.25)
    found = evaluate("published", bare, SHAPE, gpu_fractions=[0.3])
    assert any("gate-ahead is left out" in note for note in found.facts["notes"])


def test_a_distance_of_none_is_refused() -> None:
    with pytest.raises(InputError, match="the distance is 0 layers; it must be at least 1"):
        recall(routed(), "ewma", distance=0)


def test_replays_use_them() -> None:
    """Simulated: more is foreseen and hit than by a running mean; honest: judged beside it. Both say so."""
    trace, came = routed(drift=0.2), {}
    for name in ("gate-ahead", "ewma"):
        study = Study.of(trace, SHAPE, ["rtx-4060-laptop-8gb"])
        came[name] = replay_one(replace(study, forecaster=name, decision_s=0.0, bound_windows=0), "hetsched", 0.25)
    assert came["gate-ahead"].facts["forecast"]["recall"] > came["ewma"].facts["forecast"]["recall"] + 0.1
    assert came["gate-ahead"].row.strategy == "hetsched"
    names = ["gate-ahead", "ewma"]
    honest = evaluate(
        "honest", trace, SHAPE, hardware=machine("rtx-4060-laptop-8gb"), forecasters=names, strategies="hetsched",
        gpu_fractions=[0.25], decision_s=0.0,
    )  # fmt: skip
    by_name = {row.forecaster: row for row in honest.rows}
    assert by_name["gate-ahead"].recall > by_name["ewma"].recall + 0.1
    assert not by_name["gate-ahead"].clairvoyant


def test_a_predictor_that_needs_hidden_states_has_them_in_a_replay() -> None:
    """Through every step of the replay, and not by its compiled form, which would go without."""
    trace, net = routed(12), Learned(untrained(SHAPE, hidden=WIDTH))
    fed = configured(net, Replayed(trace, foresees=False))
    assert not hasattr(fed, "kernel")
    fed.start(SHAPE)
    fed.observe(Demand(3, 2, Phase.DECODE, trace.demand_LE(slice(3, 4))[2], 1))
    assert hasattr(Learned(untrained(SHAPE)), "kernel")
    assert 0.0 <= recall(trace, Learned(untrained(SHAPE, hidden=WIDTH))) <= 1.0


def test_the_command_line_judges_at_a_distance(tmp_path: Path, capsys: Any) -> None:
    save_trace(tmp_path / "t.npz", routed(drift=0.2))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    words = ["evaluate", "--protocol", "caching-study", "--trace", str(tmp_path / "t.npz")]
    words += [
        "--model",
        str(tmp_path / "config.json"),
        "--forecaster",
        "gate-ahead",
        "--gpu-fraction",
        "0.25",
        "--json",
    ]
    recalls = []
    for distance in ("1", "3"):
        assert main([*words, "--distance", distance]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["distance"] == int(distance)
        (lru,) = [row for row in told["rows"] if row["forecaster"] and row["strategy"] == "lru"]
        assert lru["stand_in"] == ""
        recalls.append(lru["recall"])
    assert recalls[0] > recalls[1]
