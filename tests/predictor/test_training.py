"""Training: what counting cannot see is found, the same seed gives the same file, and a killed run is gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.predictor import training
from hetsched.predictor.checkpoint import checkpoint_path
from hetsched.predictor.evaluation import evaluate
from hetsched.predictor.parts import parts
from hetsched.predictor.published import PublishedNet
from hetsched.predictor.store import load, load_compact, save
from hetsched.predictor.training import Options, train
from hetsched.traces.trace import RoutingTrace
from tests.predictor.made import hinted, mixed, permuted

SHORT = Options(epochs=2, width=16)


def recalls(path: Path, trace: RoutingTrace) -> dict[str, list[float]]:
    """Recall by layer of each forecaster on what was held out."""
    return {row["forecaster"]: row["recall_by_layer"] for row in evaluate(path, trace)["rows"]}


def test_a_permutation_is_found(tmp_path: Path) -> None:
    """From the second layer on all is known; frequencies are at chance, 1 in 8."""
    trace = permuted(1000)
    meta = train(trace, tmp_path / "p", Options(epochs=25, width=32))
    found = recalls(tmp_path / "p", trace)
    assert min(found["learned"][1:]) > 0.97
    assert max(found["ewma"]) < 0.3
    assert meta["held_out"]["recall"] == pytest.approx(np.mean(found["learned"]))


def test_what_two_layers_tell_together_is_found(tmp_path: Path) -> None:
    """A sum of evidence, as of pairs, is at chance there; a network is not."""
    trace = mixed(3000)
    train(trace, tmp_path / "p", Options(epochs=40, width=64, patience=40))
    found = recalls(tmp_path / "p", trace)
    assert min(found["learned"][2:]) > 0.8
    assert max(found["transition"][2:]) < 0.4


def test_hidden_states_tell_what_ids_do_not(tmp_path: Path) -> None:
    trace = hinted(1600)
    for hidden in (True, False):
        train(trace, tmp_path / str(hidden), Options(epochs=20, width=32, hidden=hidden))
    assert min(recalls(tmp_path / "True", trace)["learned"][1:]) > 0.95
    assert max(recalls(tmp_path / "False", trace)["learned"]) < 0.3


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize(("architecture", "dies_at"), [("compact", 2), ("compact", 7), ("published", 5)])
def test_a_killed_run_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, dies_at: int
) -> None:
    """With a checkpoint after every step, the file is the same to the byte; unfinished work is gone at the end."""
    trace, options = mixed(400), Options(architecture=architecture, epochs=3, width=16)
    train(trace, tmp_path / "whole", options)
    monkeypatch.setattr(training, "CHECKPOINT_S", -1.0)

    def dies(done: int, total: int, text: str) -> None:
        if done == dies_at:
            raise Killed

    path = tmp_path / "p"
    with pytest.raises(Killed):
        train(trace, path, options, dies)
    assert not path.exists()
    with pytest.raises(InputError, match="other arguments"):
        train(trace, path, Options(architecture=architecture, epochs=3, width=16, seed=1))
    done: list[int] = []
    train(trace, path, options, lambda step, total, text: done.append(step))
    assert done[0] == dies_at + 1
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert not checkpoint_path(path).exists()


def test_the_seed_decides(tmp_path: Path) -> None:
    trace = mixed(400)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(trace, tmp_path / name, Options(epochs=2, width=16, seed=seed))
    files = [(tmp_path / name).read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]


def test_it_stops_where_nothing_gets_better(tmp_path: Path) -> None:
    """Uniform choices: nothing can be learned, and what was best is what is kept."""
    random = np.random.default_rng(0)
    trace = mixed(400)
    noise = RoutingTrace(random.integers(8, size=(400, 4, 1)).astype(np.int16), trace.sequence_T, trace.phase_T, 8)
    told = train(noise, tmp_path / "p", Options(epochs=60, patience=2, width=16))["training"]
    assert told["epochs"] == told["best_epoch"] + 2 < 60


def test_minutes_end_it(tmp_path: Path) -> None:
    told = train(mixed(400), tmp_path / "p", Options(epochs=1000, minutes=1e-9, width=16))["training"]
    assert told["steps"] == 1
    load_compact(tmp_path / "p")


def test_the_published_architecture_has_the_published_size() -> None:
    """About 14 million weights, for 2048 numbers of hidden state, 26 layers and 64 experts."""
    net = PublishedNet(26, 64, hidden=2048)
    assert 13.5e6 < sum(p.numel() for p in net.parameters()) < 14.5e6


@pytest.mark.parametrize("protocol", ["honest", "published"])
def test_the_published_architecture_sees_what_its_protocol_lets_it(tmp_path: Path, protocol: str) -> None:
    """Honest: neither this layer's input nor a later token changes a forecast. Published: both do."""
    import torch

    from hetsched.predictor.published import PublishedBatches

    trace = hinted(40, 1)
    net = PublishedNet(4, 8, hidden=12, inner=64, protocol=protocol).eval()
    assert trace.hidden_TLH is not None

    def forecasts(token: int, layer: int) -> Any:
        """Forecasts of layer 2, with one hidden state changed."""
        hidden_TLH = trace.hidden_TLH.copy()  # type: ignore[union-attr]
        hidden_TLH[token, layer] += 3
        changed = RoutingTrace(trace.experts_TLK, trace.sequence_T, trace.phase_T, 8, hidden_TLH=hidden_TLH)
        with torch.inference_mode():
            return net.logits(PublishedBatches(changed, hidden=True, protocol=protocol).batch([2]))[0].numpy()

    same_layer = np.abs(forecasts(10, 2) - forecasts(11, 3)).max(axis=1) > 1e-4
    layer_before = np.abs(forecasts(10, 1) - forecasts(11, 3)).max(axis=1) > 1e-4
    if protocol == "honest":
        assert not same_layer.any()
        assert layer_before[10:].all()
        assert not layer_before[:10].any()
    else:
        assert same_layer.all()
        assert not layer_before.any()


def test_the_published_architecture_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In small, on ids, in larger steps: it finds what the layer before says."""
    monkeypatch.setattr(PublishedNet, "learning_rate", 1e-3)
    trace = permuted(1000)
    train(trace, tmp_path / "p", Options(architecture="published", epochs=20, width=64, patience=20))
    found = recalls(tmp_path / "p", trace)
    assert np.mean(found["learned"][1:]) > 0.5
    with pytest.raises(InputError, match="train one with --architecture compact"):
        load_compact(tmp_path / "p")


def test_one_sequence_is_split_by_its_tokens() -> None:
    divided = parts(mixed(100, 1), 0.6)
    assert (divided.by, divided.fit.num_tokens, divided.validation, divided.held_out.num_tokens) == (
        "tokens",
        60,
        54,
        40,
    )
    divided = parts(mixed(100, 10), 0.6)
    assert (divided.by, divided.fit.num_tokens, divided.validation, divided.held_out.num_tokens) == (
        "sequences",
        60,
        50,
        40,
    )


@pytest.mark.parametrize(
    ("trace", "options", "told"),
    [
        (mixed(40), SHORT, "too few to learn from"),
        (mixed(400), Options(hidden=True), "record it with 'hetsched trace record --hidden'"),
        (mixed(400), Options(fit_sequences=1.5), "the fraction is 1.5"),
        (hinted(400), Options(protocol="published", hidden=True), "needs --architecture published and --hidden"),
    ],
)
def test_what_cannot_be_trained(tmp_path: Path, trace: RoutingTrace, options: Options, told: str) -> None:
    with pytest.raises(InputError, match=told):
        train(trace, tmp_path / "p", options)
    assert not list(tmp_path.iterdir())


def test_bad_files_are_refused_in_a_line(tmp_path: Path) -> None:
    """Cut short, no predictor, another schema, wrong arrays, numbers that are none."""
    trace = mixed(400)
    train(trace, tmp_path / "p", SHORT)
    whole, stored = (tmp_path / "p").read_bytes(), load(tmp_path / "p")
    bad: dict[str, Any] = {f"cut {n}": whole[:n] for n in (0, 4, 100, len(whole) - 1)}
    bad |= {"text": b"hello, this is no predictor at all", "schema": whole.replace(b"predictor/1", b"predictor/9")}
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    nan = {**stored.arrays, "bias_LE": np.full_like(stored.arrays["bias_LE"], np.nan)}
    save(tmp_path / "nan", stored.meta, nan)
    save(tmp_path / "shape", stored.meta, {**stored.arrays, "bias_LE": np.zeros((2, 2), np.float32)})
    save(tmp_path / "absent", stored.meta, {"bias_LE": stored.arrays["bias_LE"]})
    save(tmp_path / "layers", {**stored.meta, "layers": "many"}, stored.arrays)
    save(tmp_path / "kind", {**stored.meta, "architecture": "oracle"}, stored.arrays)
    for name in (*bad, "nan", "shape", "absent", "layers", "kind"):
        with pytest.raises(InputError) as caught:
            load_compact(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_damaged_unfinished_work_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(done: int, total: int, text: str) -> None:
        raise Killed

    monkeypatch.setattr(training, "CHECKPOINT_S", -1.0)
    path = tmp_path / "p"
    with pytest.raises(Killed):
        train(mixed(400), path, SHORT, dies)
    stored = load(checkpoint_path(path))
    save(checkpoint_path(path), stored.meta, {k: v for k, v in stored.arrays.items() if k != "now.bias_LE"})
    with pytest.raises(InputError, match=r"is damaged: .*delete it"):
        train(mixed(400), path, SHORT)


def test_the_metadata_is_json_without_times(tmp_path: Path) -> None:
    """So that the same seed gives the same file."""
    train(mixed(400), tmp_path / "p", SHORT)
    meta = load(tmp_path / "p").meta
    assert json.loads(json.dumps(meta)) == meta
    assert {"architecture", "layers", "num_experts", "top_k", "seed", "model", "held_out", "trace"} <= set(meta)
    assert not [name for name in (*meta, *meta["training"], *meta["held_out"]) if name.endswith("_s")]
