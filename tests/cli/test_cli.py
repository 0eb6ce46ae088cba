"""The command line: documents, exit codes, and one line for every error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hetsched.cli import VERBS, main
from tests.documents import document_of

MACHINE = ["--hardware", "rtx-4060-laptop-8gb", "--time-scale", "1"]


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    capsys.readouterr()
    try:
        code = main(argv)
    except SystemExit as stop:  # argparse's own way out
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _ = call(capsys, verb, "--help")
    assert code == 0
    assert "usage: hetsched" in out


def test_run_json(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    argv = ["run", "--model", str(checkpoint), "--prompt", "the sea was calm", "--max-new-tokens", "5", "--json"]
    code, out, _ = call(capsys, *argv, *MACHINE, "--gpu-memory", "25%")
    assert code == 0
    document = document_of(out)
    assert document["schema"] == "hetsched-run/1"
    assert 1 <= document["tokens"] <= 5
    assert document["prompt_tokens"] == 4
    assert document["emulated"] is True
    assert document["hardware"] == "rtx-4060-laptop-8gb"
    assert document["tokens_per_s"] > 0
    assert 0 < document["gpu_expert_bytes"] == document["stats"]["gpu_expert_bytes"]
    assert isinstance(document["text"], str)


def test_run_streams_the_text(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    argv = ["run", "--model", str(checkpoint), "--prompt", "the sea", "--max-new-tokens", "3"]
    code, out, err = call(capsys, *argv, *MACHINE)
    assert code == 0
    assert out.strip()
    assert "rtx-4060-laptop-8gb (emulated)" in err
    assert "tokens/s" in err


def test_run_on_this_machine_is_measured(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    argv = ["run", "--model", str(checkpoint), "--prompt", "the sea", "--max-new-tokens", "3", "--json"]
    code, out, _ = call(capsys, *argv)
    assert code == 0
    assert document_of(out)["emulated"] is False


def test_verify_json(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    argv = ["verify", "--model", str(checkpoint), "--max-new-tokens", "6", "--gpu-memory", "10%,50%", "--json"]
    code, out, _ = call(capsys, *argv)
    document = document_of(out)
    assert document == {
        "schema": "hetsched-verify/1",
        "tokens_compared": document["tokens_compared"],
        "tokens_equal": document["tokens_compared"],
        "max_abs_logit_diff": 0.0,
        "bit_identical": True,
        "cpu_kernel": "eager",
        "lossless": True,
    }
    assert document["tokens_compared"] > 0
    assert code == 0


def test_verify_compares_fast_kernels_step_by_step(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the reference's own tokens, so that one other token is counted once; the kernel is named."""
    argv = ["verify", "--model", str(checkpoint), "--max-new-tokens", "6", "--hardware", "cpu", "--prompt", "the sea"]
    code, out, _ = call(capsys, *argv, "--cpu-kernel", "torch-fp32")
    assert code == 0
    assert "6 of 6 tokens equal (100.0%; CPU kernel torch-fp32@1), largest logit difference" in out
    from hetsched.cli import verify

    right, steps = verify._steps, []

    def one_other(*args: Any) -> list[Any]:
        steps.append(right(*args))
        steps[0][2] = -steps[0][2]
        return steps[0]

    monkeypatch.setattr(verify, "_steps", one_other)
    code, out, _ = call(capsys, *argv, "--cpu-kernel", "torch-fp32", "--json")
    document = document_of(out)
    assert code == 1
    assert (document["tokens_compared"], document["tokens_equal"]) == (6, 5)
    assert document["max_abs_logit_diff"] == pytest.approx(2 * float(steps[0][2].abs().max()), rel=1e-3)


def test_verify_fails_when_tokens_differ(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong expert is found: exit 1, and the document says so."""
    import hetsched.engine.executor as executor

    right = executor.expert_ffn
    monkeypatch.setattr(executor, "expert_ffn", lambda *args: -3 * right(*args))
    argv = ["verify", "--model", str(checkpoint), "--max-new-tokens", "6", "--gpu-memory", "25%", "--json"]
    code, out, _ = call(capsys, *argv)
    document = document_of(out)
    assert code == 1
    assert not document["bit_identical"]
    assert document["max_abs_logit_diff"] > 0
    assert document["tokens_equal"] < document["tokens_compared"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "  "], "the prompt has no tokens"),
        (["--hardware", "rtx-9999"], "unknown machine 'rtx-9999'"),
        (["--hardware", "rtx-4060-laptop-8gb", "--gpu-memory", "1KB"], "the least that works is"),
        (["--hardware", "rtx-4060-laptop-8gb", "--gpu-memory", "900GiB"], "more than rtx-4060-laptop-8gb has"),
        (["--hardware", "rtx-4060-laptop-8gb", "--policy", "on-demand-lr"], "did you mean 'on-demand-lru'"),
        (["--solver", "exakt"], "did you mean 'exact'"),
        (["--solver", "no.such:Solver"], "could not be imported"),
        (["--stand-in-for", "gpt-oss-20b"], "needs an emulated machine"),
        (["--model", "/no/such/folder"], "has no config.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, options: list[str], message: str
) -> None:
    base = ["run", "--model", str(checkpoint), "--prompt", "the sea", "--max-new-tokens", "2"]
    code, out, err = call(capsys, *base, *options)
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("hetsched:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err


def test_a_dense_model_is_refused_before_its_weights_are_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    code, _, err = call(capsys, "run", "--model", str(tmp_path), "--prompt", "x")
    assert code == 2
    assert "llama has no routed experts" in err


def test_a_broken_config_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nothing-like-it"}')
    code, _, err = call(capsys, "run", "--model", str(tmp_path), "--prompt", "x")
    assert code == 2
    assert "config.json" in err


def test_bad_usage_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "run", "--prompt", "x")[0] == 2
    assert call(capsys, "run", "--model", "demo", "--prompt", "x", "--max-new-tokens", "0")[0] == 2
    assert call(capsys, "nothing")[0] == 2


def test_ctrl_c_is_exit_130(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the middle of a layer: threads end (a fixture checks), one line, 130."""
    from hetsched.engine.executor import AsyncExecutor

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(AsyncExecutor, "submit", interrupt)
    code, _, err = call(capsys, "run", "--model", str(checkpoint), "--prompt", "the sea", *MACHINE)
    assert code == 130
    assert "interrupted" in err


def test_errors_that_are_nobodys_input_are_exit_1(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hetsched.engine.executor as executor

    monkeypatch.setattr(executor, "expert_ffn", lambda *_: 1 // 0)
    argv = ["run", "--model", str(checkpoint), "--prompt", "the sea", *MACHINE]
    code, _, err = call(capsys, *argv)
    assert code == 1
    assert "LaneError" in err
    assert "Traceback" not in err
    with pytest.raises(RuntimeError, match="division"):
        main([*argv, "--debug"])


def test_profiles_list_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "profiles", "list", "--json")
    assert code == 0
    assert "rtx-4060-laptop-8gb" in {machine["name"] for machine in document_of(out)["machines"]}
