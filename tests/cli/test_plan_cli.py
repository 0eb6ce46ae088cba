"""`hetsched plan` as a user calls it: the document, what it agrees with, what is refused, and nothing cut off."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from huggingface_hub import constants

import hetsched
from hetsched.cli.plan import EXAMPLES
from tests.cli.test_cli import call
from tests.replay.compare_made import MACHINE, model_file, trace_file

SCHEMA = json.loads((resources.files("hetsched") / "schemas" / "plan-1.json").read_text())
PLAN = ["plan", "--model", "qwen3-30b-a3b", "--hardware", "rtx-3060-12gb"]
ASKED = {
    "as published, does not fit": PLAN,
    "q4": [*PLAN, "--format", "q4_k_m"],
    "everything fits": ["plan", "--model", "olmoe-1b-7b", "--hardware", "rtx-4090", "--context", "2048"],
    "llama.cpp": [*PLAN, "--format", "q4_k_m", "--engine", "llama.cpp", "--n-cpu-moe", "30"],
    "drafts": [*PLAN, "--format", "q4_k", "--speculate", "3", "--draft", "mtp"],
    "draft model": [*PLAN, "--format", "q4_k", "--speculate", "2", "--draft", "small=600MB,0.002"],
    "batch": [*PLAN, "--format", "q4_0", "--batch", "4", "--gpu-memory", "20%"],
    "no GPU": [*PLAN[:3], "--hardware", "cpu", "--format", "q4_0"],
}


def document(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """The JSON of a call that worked, checked against the schema."""
    code, out, err = call(capsys, *argv, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    jsonschema.validate(found, SCHEMA)
    return found


@pytest.mark.parametrize("argv", ASKED.values(), ids=ASKED)
def test_json_is_the_contract(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    found = document(capsys, *argv)
    assert found["schema"] == "hetsched-plan/1"
    speeds = [*found["decode_tokens_per_s"].values(), *found["prefill_tokens_per_s"].values()]
    assert all(speed > 0 for speed in speeds) if found["fits"] else speeds == [None] * 6
    memory = found["memory"]
    assert sum(memory["gpu"].values()) + memory["gpu_left_bytes"] == memory["gpu_bytes"]
    assert sum(memory["host"].values()) + memory["host_left_bytes"] == memory["host_bytes"]
    if found["seconds_per_token"]:
        parts = dict(found["seconds_per_token"])
        total_s = sum(parts.values()) - 2 * parts["hidden_s"]
        if not found["speculation"] or found["speculation"]["pays"]:
            assert 1 / total_s == pytest.approx(found["decode_tokens_per_s"]["expected"])


def test_what_does_not_fit_says_by_how_much_and_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    """54 GiB of experts in 32 GiB; each remedy, added to the command, makes it fit."""
    found = document(capsys, *PLAN)
    assert not found["fits"]
    assert found["memory"]["host_over_bytes"] == -found["memory"]["host_left_bytes"] > 20 << 30
    assert found["strategy"] == "does-not-fit"
    assert "host by 2" in found["strategy_text"]
    options = [remedy for remedy in found["remedies"] if remedy.startswith("--format")]
    assert options
    for option in options:
        assert document(capsys, *PLAN, *option.split())["fits"]


def test_a_context_that_is_too_long_is_answered_by_one_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*PLAN, "--format", "q4_0", "--context", "1000000"]
    remedy = next(text for text in document(capsys, *argv)["remedies"] if text.startswith("--context"))
    assert document(capsys, *argv[:-2], *remedy.split())["fits"]


def test_memory_is_that_of_attach(capsys: pytest.CaptureFixture[str], checkpoint: Path, model: Any) -> None:
    """For a tiny model, counted from its config: all lines equal, dense weights but for what configs leave out."""
    found = document(capsys, "plan", "--model", str(checkpoint), "--hardware", MACHINE, "--gpu-memory", "50%")
    with hetsched.attach(model, hardware=MACHINE, gpu_memory="50%") as handle:
        memory = handle.stats()["memory"]
    for side in ("gpu", "host"):
        ours, theirs = found["memory"][side], memory[side]
        assert ours.pop("dense") == pytest.approx(theirs.pop("dense"), rel=0.02)
        assert ours == theirs
    assert found["memory"]["slots"] == memory["slots"]


@pytest.mark.parametrize("context", ["1024", "8192"])
def test_a_traces_speed_is_that_of_simulate(capsys: pytest.CaptureFixture[str], tmp_path: Path, context: str) -> None:
    """And the range lies about it, with attention and head added."""
    files = ["--trace", str(trace_file(tmp_path)), "--model", str(model_file(tmp_path)), "--hardware", MACHINE]
    found = document(capsys, "plan", *files, "--gpu-memory", "25%", "--context", context)
    trace = found["trace"]
    charged = ["--decision", "0", "--host", repr(trace["host_s"]), "--bound-windows", "0"]
    fraction = repr(trace["gpu_fraction"])
    code, out, _ = call(capsys, "simulate", *files, "--gpu-fraction", fraction, *charged, "--json")
    assert code == 0
    row = json.loads(out)["row"]
    assert row["gpu_bytes"] // found["memory"]["expert_bytes"] == found["memory"]["slots"]
    assert trace["tokens_per_s"] == row["tokens_per_s"]
    assert trace["hit_rate"] == row["hit_rate"]
    expected = 1 / (1 / row["tokens_per_s"] + trace["beside_s"])
    assert found["decode_tokens_per_s"]["expected"] == pytest.approx(expected)
    assert found["clock"] == "simulated"
    assert found["depends_on"][0]["what"] == "bandwidth spread"


def test_hot_experts_are_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With llama.cpp too, whose speed does not depend on a trace; the flags name the file."""
    files = ["--trace", str(trace_file(tmp_path)), "--model", str(model_file(tmp_path)), "--hardware", MACHINE]
    hot = tmp_path / "hot.csv"
    argv = [*files, "--gpu-memory", "25%", "--engine", "llama.cpp", "-o", str(hot)]
    found = document(capsys, "plan", *argv)
    assert hot.read_text().startswith("0,0,")
    assert found["trace"] is None
    assert str(hot) in found["llama_cpp"]["fork_flags"]


def test_an_id_on_the_hub_is_planned_from_its_config_alone(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--someone--tiny-moe"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    shutil.copy(checkpoint / "config.json", repository / "snapshots" / commit)
    ours, theirs = (
        document(capsys, "plan", "--model", name, "--hardware", MACHINE)
        for name in ("someone/tiny-moe", str(checkpoint))
    )
    assert ours["memory"] == theirs["memory"]
    code, _, err = call(capsys, "plan", "--model", "someone/other", "--hardware", MACHINE)
    assert code == 2
    assert "config.json could not be fetched" in err
    assert err.count("\n") == 1


REFUSED = {
    "n-cpu-moe": (["--n-cpu-moe", "3"], "--engine llama.cpp"),
    "both placements": (["--engine", "llama.cpp", "--n-cpu-moe", "3", "--gpu-memory", "1GiB"], "drop one"),
    "prompt": (["--context", "100", "--prompt-tokens", "200"], "longer than the context"),
    "context": (["--context", "99999999999999"], "context is 99999999999999"),
    "batch": (["--batch", "99999999"], "batch is 99999999"),
    "out": (["-o", "x.csv"], "add --trace"),
    "layout": (["--layout", "counts"], "belongs to --trace"),
    "draft": (["--draft", "mtp"], "belongs to --speculate"),
    "drafts of a batch": (["--speculate", "2", "--batch", "2"], "one sequence"),
    "gpu memory": (["--gpu-memory", "900GiB"], "more than rtx-3060-12gb has"),
    "no expert": (["--gpu-memory", "1KB"], "holds no expert; the least that works"),
    "a share without %": (
        ["--gpu-memory", "25"],
        "holds no expert; write 25% for that share of the experts; the least",
    ),
    "half": (["--gpu-memory", "0.5"], "write 50% for that share of the experts, 0.5GiB for a size; the least"),
    "format": (["--format", "q99"], "q99"),
    "engine": (["--engine", "vllm"], "invalid choice"),
}


@pytest.mark.parametrize(("more", "says"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str], more: list[str], says: str) -> None:
    code, out, err = call(capsys, *PLAN, *more)
    assert (code, out) == (2, "")
    assert says in err


def test_sizes_that_no_model_has_are_refused_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = json.loads(model_file(tmp_path).read_text())
    for name, value in {"num_hidden_layers": 10**12, "num_experts": 10**12, "hidden_size": 10**15}.items():
        (tmp_path / "config.json").write_text(json.dumps({**config, name: value}))
        code, _, err = call(capsys, "plan", "--model", str(tmp_path / "config.json"), "--hardware", MACHINE)
        assert code == 2
        assert name in err


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("argv", ASKED.values(), ids=ASKED)
def test_nothing_is_cut_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argv: list[str], columns: str
) -> None:
    from rich.console import Console

    from hetsched.report import tables

    made = Console(width=int(columns), markup=False, emoji=False, highlight=False, color_system=None)
    monkeypatch.setattr(tables, "console", lambda: made)
    code, out, _ = call(capsys, *argv)
    assert code == 0
    to_copy = [line for line in out.splitlines() if line.lstrip().startswith(("llama.cpp", "or, for", "forks"))]
    assert max(len(line) for line in out.splitlines() if line not in to_copy) <= int(columns)
    told = document(capsys, *argv)
    named = told["llama_cpp"]["override_tensor"], told["llama_cpp"]["fork_flags"]
    texts = [told["llama_cpp_flags"], *named] if to_copy else []
    for line, text in zip(to_copy, filter(None, texts), strict=True):
        assert line.rstrip("'").endswith(text)  # whole, whatever the width
    assert "…" not in out
    assert "a wider terminal" not in out
    assert re.search("left +", out)


def test_a_context_that_the_model_was_not_made_for_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    asked = "plan", "--model", "olmoe-1b-7b", "--hardware", MACHINE, "--context"
    note = "the model was made for 4,096 tokens, and the context is 4,097"
    assert note in document(capsys, *asked, "4097")["notes"]
    assert note not in document(capsys, *asked, "4096")["notes"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (ASKED["batch"], ("all 4 sequences together", "a token's share of a step of 4")),
        (ASKED["draft model"], ("a token's share of a step with drafts",)),
        (ASKED["llama.cpp"], ("a token's time",)),
    ],
)
def test_seconds_say_whose_they_are(capsys: pytest.CaptureFixture[str], argv: list[str], said: tuple[str, ...]) -> None:
    """A token's own, or its share of a step that has several."""
    code, out, _ = call(capsys, *argv)
    assert code == 0
    assert all(text in out for text in said)
    assert ("a token's time" in out) == (said == ("a token's time",))


def test_no_torch_is_imported() -> None:
    code = f"import sys; from hetsched.cli import main; main({PLAN!r}); print([m for m in HEAVY if m in sys.modules])"
    heavy = "HEAVY = ('torch', 'transformers', 'numba', 'matplotlib', 'ortools'); "
    out = subprocess.run([sys.executable, "-c", heavy + code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_examples_are_command_lines() -> None:
    from hetsched.cli import _parser

    for line in EXAMPLES:
        program, *argv = line.split()
        assert program == "hetsched"
        assert _parser().parse_args(argv).verb == "plan"


def test_a_gguf_files_own_bytes_count(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of its header, experts and all else apart; under llama.cpp nothing is counted that is not in the file."""
    pytest.importorskip("torch")
    from hetsched.loading.gguf_file import Gguf
    from tests.loading.made_gguf import KIND, write
    from tests.loading.test_gguf import normed_qwen3_moe

    path = tmp_path / "tiny.gguf"
    write(path, normed_qwen3_moe(), KIND.Q8_0, KIND.Q8_0)
    found = document(capsys, "plan", "--model", str(path), "--hardware", MACHINE, "--engine", "llama.cpp")
    sizes = {name: tensor.num_bytes for name, tensor in Gguf(path).tensors.items()}
    rest = sum(size for name, size in sizes.items() if "_exps." not in name)
    memory = found["memory"]
    assert memory["gpu"]["dense"] + memory["host"]["dense"] == rest
    assert memory["host"]["dense"] in (0, sizes["token_embd.weight"])
    assert memory["gpu"]["experts"] == sum(sizes.values()) - rest
    assert found["format"] == "q8_0"
