"""The command line: two sets of prompts are told apart, and nothing steered is shown without saying so."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from hetsched.cli import main
from hetsched.steering.file import read_steering
from hetsched.traces.trace import load_trace
from tests.documents import document_of

MACHINE = ("--hardware", "rtx-4060-laptop-8gb", "--time-scale", "1", "--policy", "static-frequency")


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def write_prompts(path: Path, words: list[int], seed: int, lines: int = 40) -> str:
    """Lines of six to twelve of these words, which stand for a subject."""
    drawn = random.Random(seed)
    texts = [" ".join(f"word{drawn.choice(words)}" for _ in range(drawn.randint(6, 12))) for _ in range(lines)]
    path.write_text("\n".join(texts))
    return str(path)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """Two sets of one subject and a set of another; the random model knows words by their embeddings."""
    folder = tmp_path_factory.mktemp("prompts")
    code, prose = list(range(8)), list(range(60, 68))
    return (
        write_prompts(folder / "code.txt", code, 0),
        write_prompts(folder / "more-code.txt", code, 1),
        write_prompts(folder / "prose.txt", prose, 2),
    )


@pytest.fixture(scope="module")
def steer(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, sets: tuple[str, str, str]) -> Path:
    """A steering that the verb itself wrote."""
    path = tmp_path_factory.mktemp("steer") / "code.yaml"
    argv = ("analyse", "experts", "--model", str(checkpoint), "--prompts-a", sets[0], "--prompts-b", sets[2])
    assert main([*argv, "--out", str(path), "--top", "5", "--json"]) == 0
    return path


def analysed(capsys: pytest.CaptureFixture[str], checkpoint: Path, a: str, b: str, *more: str) -> Any:
    argv = ("analyse", "experts", "--model", str(checkpoint), "--prompts-a", a, "--prompts-b", b, "--json", *more)
    code, out, _ = call(capsys, *argv)
    assert code == 0
    return document_of(out)


def test_two_subjects_are_told_apart(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, sets: tuple[str, str, str]
) -> None:
    """The strongest difference lies far beyond its error; two sets of one subject show no more than chance does."""
    apart = analysed(capsys, checkpoint, sets[0], sets[2])
    strongest = apart["strongest"][0]
    assert apart["schema"] == "hetsched-analyse-experts/1"
    assert abs(strongest["risk_difference"]) > 5 * strongest["standard_error"] > 0
    alike = analysed(capsys, checkpoint, sets[0], sets[1])
    assert alike["clear"]["experts"] <= 2 < apart["clear"]["experts"]
    assert abs(alike["strongest"][0]["risk_difference"]) < 0.5 * abs(strongest["risk_difference"])


def test_swapped_sets_change_the_sign(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, sets: tuple[str, str, str]
) -> None:
    one, other = (
        analysed(capsys, checkpoint, *pair, "--top", "3") for pair in ((sets[0], sets[2]), sets[2:] + sets[:1])
    )
    assert one["sets"] == other["sets"][::-1]
    assert sum(set_["prompts"] for set_ in one["sets"]) == 80
    for a, b in zip(one["strongest"], other["strongest"], strict=True):
        assert (a["layer"], a["expert"], a["rate_a"]) == (b["layer"], b["expert"], b["rate_b"])
        assert a["risk_difference"] == pytest.approx(-b["risk_difference"])
        assert {a["forced"], b["forced"]} == {"on", "off"}


def test_rates_are_shares_of_the_tokens(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, sets: tuple[str, str, str]
) -> None:
    """Every token chooses top_k experts, so a layer's differences sum to 0, and its words are its tokens."""
    found = analysed(capsys, checkpoint, sets[0], sets[2])
    for row in found["risk_difference"]:
        assert sum(row) == pytest.approx(0, abs=1e-9)
    assert found["sets"][0]["tokens"] == len(Path(sets[0]).read_text().split())
    assert found["geometry"] == {"layers": 3, "experts": 8, "top_k": 4, "hidden": 32}


def test_the_table_and_the_picture(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, sets: tuple[str, str, str], tmp_path: Path
) -> None:
    argv = ["analyse", "experts", "--model", str(checkpoint), "--prompts-a", sets[0], "--prompts-b", sets[2]]
    argv += ["--plot", str(tmp_path / "p.png"), "--out", str(tmp_path / "s.json"), "--top", "4"]
    code, out, _ = call(capsys, *argv)
    assert code == 0
    assert (tmp_path / "p.png").stat().st_size > 10_000
    assert "A: 40 prompts of code.txt" in out
    assert "LOSSY wherever --steer takes it" in out
    steering = read_steering(tmp_path / "s.json")
    assert steering.activated + steering.deactivated == 4
    assert len([line for line in out.splitlines() if line.split()[-1:] in (["on"], ["off"])]) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [(("--out", "steer.txt"), "let it end in"), (("--prompts-b", "{one}"), "one has one prompt")],
)
def test_mistakes_before_the_model_is_read(
    capsys: pytest.CaptureFixture[str],
    sets: tuple[str, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").write_text("the sea")
    argv = ["analyse", "experts", "--model", "no-model", "--prompts-a", sets[0], "--prompts-b", sets[2]]
    code, _, err = call(capsys, *argv, *(text.replace("{one}", "one") for text in more))
    assert code == 2
    assert message in err


def test_run_is_labelled(capsys: pytest.CaptureFixture[str], checkpoint: Path, steer: Path) -> None:
    argv = ("run", "--model", str(checkpoint), "--prompt", "the sea", "--max-new-tokens", "3", *MACHINE)
    argv = (*argv, "--gpu-memory", "30%", "--steer", str(steer))
    _, _, err = call(capsys, *argv)
    lines = [line for line in err.splitlines() if "rtx-4060" in line or "tokens/s" in line]
    assert len(lines) == 3
    assert all(line.startswith("LOSSY, steered by code.yaml (") for line in lines)
    document = document_of(call(capsys, *argv, "--json")[1])
    assert document["lossless"] is False
    assert document["steered"]["file"] == "code.yaml"
    _, _, err = call(capsys, *argv, "--gpu-precision", "int4")
    assert "LOSSY, int4 experts on the GPU, steered by code.yaml (" in err


def test_verify_calls_nothing_steered_lossless(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, steer: Path
) -> None:
    for more in ((), ("--perplexity", "--gpu-precision", "int8")):
        code, out, err = call(capsys, "verify", "--model", str(checkpoint), "--steer", str(steer), *more)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "never lossless" in err


def test_a_steered_trace_says_so_and_joins_no_other(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, steer: Path, sets: tuple[str, str, str], tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(Path(sets[2]).read_text().splitlines()[:3]))
    argv = ("trace", "record", "--model", str(checkpoint), "--prompts", str(prompts), "--max-new-tokens", "4")
    plain, made = tmp_path / "plain.npz", tmp_path / "steered.npz"
    assert "LOSSY" not in call(capsys, *argv, "--out", str(plain))[1]
    code, out, _ = call(capsys, *argv, "--out", str(made), "--steer", str(steer))
    assert code == 0
    assert out.startswith("LOSSY, steered by code.yaml (")
    trace, steering = load_trace(made), read_steering(steer)
    assert trace.meta["steered"] == steering.facts()
    assert "steered" not in load_trace(plain).meta
    for layer, forced in steering.layers.items():
        chosen_TK = trace.experts_TLK[:, layer]
        assert all((chosen_TK == expert).any(axis=1).all() for expert in forced.activate)
        assert not any((chosen_TK == expert).any() for expert in forced.deactivate)
    assert "LOSSY: the model was steered by code.yaml (" in call(capsys, "trace", "info", str(made))[1]
    code, _, err = call(capsys, "trace", "concat", str(plain), str(made), "--out", str(tmp_path / "both.npz"))
    assert code == 2
    assert "steered differently" in err
    code, _, err = call(capsys, *argv, "--out", str(made))  # the file is of another recording
    assert code == 2
    assert "recorded otherwise" in err


def test_another_models_steering_is_refused_before_weights_are_read(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "other.json"
    geometry = {"layers": 30, "experts": 16, "top_k": 4, "hidden": 576}
    layers = [{"layer": 0, "activate": [1]}]
    path.write_text(json.dumps({"schema": "hetsched-steer/1", "model": "demo", "geometry": geometry, "layers": layers}))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the sea")
    run = ("run", "--prompt", "the sea", *MACHINE)
    record = ("trace", "record", "--prompts", str(prompts), "--out", str(tmp_path / "t.npz"))
    for argv in (run, record):
        code, _, err = call(capsys, *argv, "--model", str(checkpoint), "--steer", str(path))
        assert code == 2
        assert "other.json steers demo, 30 layers of 16 experts and width 576; this model has 3 layers" in err
    assert not (tmp_path / "t.npz").exists()
