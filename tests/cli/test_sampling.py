"""`run` draws as it is asked: temperature, top-p, penalty and seed, before what generation_config.json says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hetsched.cli import main
from hetsched.cli.sampling import DEFAULT_SEED
from tests.cli.chatting import MACHINE, SYSTEM, TEMPLATE, USER, chat_folder, configure, expected
from tests.documents import document_of

PROMPT = "the sea was calm"
ASKED = f"{USER} {PROMPT} word2"  # as the template writes it


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    return chat_folder(checkpoint, tmp_path / "model")


def ran(capsys: pytest.CaptureFixture[str], folder: Path, *more: str) -> dict[str, Any]:
    """The document of a run of 12 tokens."""
    argv = ["run", "--model", str(folder), "--prompt", PROMPT, "--max-new-tokens", "12", *MACHINE, "--json", *more]
    assert main(argv) == 0
    document: dict[str, Any] = document_of(capsys.readouterr().out)
    return document


def test_the_options_are_those_of_transformers(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    document = ran(capsys, folder, "--temperature", "5", "--top-p", "0.7", "--repetition-penalty", "1.3", "--seed", "7")
    drawn = {"do_sample": True, "temperature": 5.0, "top_p": 0.7, "repetition_penalty": 1.3}
    assert document["text"] == expected(folder, ASKED, 12, seed=7, **drawn)
    assert document["seed"] == 7
    assert document["text"] != expected(folder, ASKED, 12)  # else nothing was drawn


@pytest.mark.parametrize("option", [("--temperature", "9"), ("--top-p", "0.999")])
def test_the_same_seed_gives_the_same_text(
    capsys: pytest.CaptureFixture[str], folder: Path, option: tuple[str, str]
) -> None:
    configure(folder, temperature=9.0, top_k=0)
    texts = {seed: [ran(capsys, folder, *option, "--seed", seed)["text"] for _ in range(2)] for seed in ("1", "2")}
    assert texts["1"][0] == texts["1"][1]
    assert texts["2"][0] == texts["2"][1]
    assert texts["1"] != texts["2"]


def test_a_checkpoint_that_samples_does_so_by_the_default_seed(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    """Whatever torch's generator was at, which is left as it was."""
    configure(folder, do_sample=True, temperature=9.0, top_k=0)
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    document = ran(capsys, folder)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert document["seed"] == DEFAULT_SEED
    assert document["text"] == ran(capsys, folder, "--seed", str(DEFAULT_SEED))["text"]
    greedy = ran(capsys, folder, "--greedy")
    assert greedy["seed"] is None
    assert greedy["text"] == expected(folder, ASKED, 12, do_sample=False) != document["text"]


def test_a_penalty_goes_with_greedy(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    document = ran(capsys, folder, "--greedy", "--repetition-penalty", "4")
    assert document["text"] == expected(folder, ASKED, 12, repetition_penalty=4.0) != expected(folder, ASKED, 12)


def test_the_document_names_the_stored_format_and_its_bytes(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    document = ran(capsys, folder)
    stats = document["stats"]
    from safetensors.torch import load_file

    experts = [w for name, w in load_file(folder / "model.safetensors").items() if ".experts." in name]
    assert document["format"] == "fp32"
    assert document["weights_bytes"] == sum(weight.nbytes for weight in experts) > stats["gpu_expert_bytes"] > 0


def test_the_system_text_goes_through_the_template(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    document = ran(capsys, folder, "--system", "word9 word8")
    assert document["text"] == expected(folder, f"{SYSTEM} word9 word8 {ASKED}", 12)
    assert document["prompt_tokens"] == len(f"{SYSTEM} word9 word8 {ASKED}".split())


def test_what_has_no_template_has_no_system_text_nor_chat(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    stern = chat_folder(checkpoint, tmp_path / "stern", "{{ raise_exception('users only') }}" + TEMPLATE)
    plain = ["run", "--model", str(checkpoint), *MACHINE]
    for argv, words in (
        ([*plain, "--prompt", PROMPT, "--system", "x"], "no chat template, and --system needs one; drop it"),
        ([*plain, "--chat"], "no chat template, and --chat needs one; drop it"),
        (["run", "--model", str(stern), "--prompt", "x", "--system", "y"], "users only; drop --system"),
    ):
        assert main(argv) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hetsched: ")]
        assert len(lines) == 1
        assert words in lines[0]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--temperature", "0"], "--temperature: 0 is outside 0..100, 0 excluded"),
        (["--temperature", "nan"], "--temperature"),
        (["--temperature", "101"], "--temperature"),
        (["--top-p", "0"], "--top-p"),
        (["--top-p", "1.01"], "--top-p"),
        (["--repetition-penalty", "-1"], "--repetition-penalty"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "1.5"], "--seed"),
        (["--greedy", "--temperature", "0.5"], "--temperature is for sampling, and --greedy never samples; drop it"),
        (["--greedy", "--top-p", "0.5"], "--top-p is for sampling"),
        (["--seed", "0", "--greedy"], "--seed is for sampling"),
        (["--chat", "--json"], "drop one of the two"),
        (["--chat", "--prompt", " "], "the prompt has no tokens"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_model_is_looked_for(
    capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    prompt = [] if "--chat" in argv else ["--prompt", PROMPT]
    assert main(["run", "--model", "absent", *prompt, *argv]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


def test_a_run_without_a_prompt_is_told_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--model", "absent"]) == 2
    assert "--prompt is missing: give text to go on with, or --chat" in capsys.readouterr().err
