"""What the verbs generate by, what they say of it, and when they say that an option is wrong."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

import hetsched.demo_model as demo_model
from hetsched.cli import main
from hetsched.cli.generating import stopped_by
from hetsched.demo_model.generation import SETTINGS, mend
from hetsched.demo_model.repetition import distinct_share, held_out_prompts, repeated_share
from hetsched.errors import InputError
from hetsched.loading import progress
from hetsched.loading.checkpoint import Reader
from tests.documents import document_of

MACHINE = ["--hardware", "rtx-4060-laptop-8gb", "--time-scale", "2", "--gpu-memory", "25%"]
PROMPT = "the sea was calm"


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that does not end its texts, whose settings may be changed."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    configure(folder)
    return folder


def configure(folder: Path, **settings: Any) -> None:
    """Its generation_config.json."""
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": None, "pad_token_id": 0, **settings}))


def ran(capsys: pytest.CaptureFixture[str], folder: Path, *more: str) -> dict[str, Any]:
    """The document of a run of 12 tokens."""
    argv = ["run", "--model", str(folder), "--prompt", PROMPT, "--max-new-tokens", "12", *MACHINE, "--json", *more]
    assert main(argv) == 0
    document: dict[str, Any] = document_of(capsys.readouterr().out)
    return document


def test_run_plans_memory_for_its_context(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """The cache's line grows with --context and is the plan's; the run's own length is planned for where it is more."""
    memory = {n: ran(capsys, folder, "--context", str(n))["stats"]["memory"] for n in (64, 128)}
    assert memory[128]["gpu"]["kv_cache"] == 2 * memory[64]["gpu"]["kv_cache"] > 0
    assert memory[64]["gpu"]["experts"] == memory[128]["gpu"]["experts"]  # --gpu-memory names them
    argv = [
        "run",
        "--model",
        str(folder),
        "--prompt",
        PROMPT,
        "--max-new-tokens",
        "3",
        *MACHINE[:-2],
        "--context",
        "64",
    ]
    assert main(argv) == 0
    said = capsys.readouterr().err
    assert "planned for 64 tokens: experts " in said
    assert "KV cache " in said
    assert " left" in said
    assert main([*argv[:-1], "0"]) == 2
    assert "--context" in capsys.readouterr().err


def expected(folder: Path, **settings: Any) -> str:
    """What transformers generates from that folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)
    torch.manual_seed(0)
    out = AutoModelForCausalLM.from_pretrained(folder).generate(**inputs, max_new_tokens=12, **settings)
    text: str = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 3.0}, {"num_beams": 3}, {"no_repeat_ngram_size": 1}])
def test_run_generates_as_the_checkpoint_says(
    capsys: pytest.CaptureFixture[str], folder: Path, settings: dict[str, Any]
) -> None:
    configure(folder, **settings)
    assert ran(capsys, folder)["text"] == expected(folder)


def test_a_setting_makes_a_difference_here(folder: Path) -> None:
    """Else the test above could not fail."""
    plain = expected(folder)
    assert all(expected(folder, **s) != plain for s in ({"repetition_penalty": 3.0}, {"no_repeat_ngram_size": 1}))


def test_sampling_is_the_checkpoint_s_choice_and_greedy_the_user_s(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    configure(folder, do_sample=True, temperature=30.0, top_k=0)
    texts = [ran(capsys, folder, "--seed", seed)["text"] for seed in ("0", "1")]
    assert texts[0] != texts[1]
    assert ran(capsys, folder, "--greedy")["text"] == expected(folder, do_sample=False)


@pytest.mark.parametrize("beams", [1, 3])
def test_the_text_is_written_once(capsys: pytest.CaptureFixture[str], folder: Path, beams: int) -> None:
    """As it comes, or with beams at the end."""
    configure(folder, num_beams=beams)
    argv = ["run", "--model", str(folder), "--prompt", PROMPT, "--max-new-tokens", "12", *MACHINE]
    assert main(argv) == 0
    assert capsys.readouterr().out.split() == expected(folder).split()


def test_wall_time_and_scale_stand_beside_the_emulated_figure(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    document = ran(capsys, folder)
    assert document["time_scale"] == 2.0
    assert document["wall_tokens_per_s"] == pytest.approx(document["tokens"] / document["wall_s"])
    # An emulated second takes two, so the wall's cannot be fewer than twice the lanes'.
    assert document["wall_s"] > 2 * document["stats"]["makespan_s"]
    argv = ["run", "--model", str(folder), "--prompt", PROMPT, "--max-new-tokens", "3"]
    assert main([*argv, *MACHINE]) == 0
    assert "an emulated second takes 2" in capsys.readouterr().err
    assert main([*argv, "--hardware", "cpu"]) == 0
    err = capsys.readouterr().err
    assert "3 tokens in" in err
    assert "emulated" not in err


def test_a_text_that_was_cut_says_so(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert ran(capsys, folder)["stopped_by"] == "length"
    argv = ["run", "--model", str(folder), "--prompt", PROMPT, "--max-new-tokens", "12", *MACHINE]
    assert main(argv) == 0
    assert "stopped at --max-new-tokens 12" in capsys.readouterr().err
    first = expected(folder).split()[0]
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    configure(folder, eos_token_id=[vocabulary[first]])
    document = ran(capsys, folder)
    assert (document["stopped_by"], document["tokens"]) == ("eos", 1)
    assert main(argv) == 0
    assert "stopped" not in capsys.readouterr().err


def test_why_a_text_ended() -> None:
    assert stopped_by([5, 2], 2, 2) == stopped_by([5, 3], [2, 3], 8) == "eos"
    assert stopped_by([5, 6], None, 2) == "length"
    assert stopped_by([5], 2, 2) == stopped_by([], 2, 2) == "other"


def test_verify_compares_both_sides_under_the_checkpoint_s_settings(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy whatever the file says of sampling and beams, with its penalty on both sides."""
    import transformers

    configure(folder, do_sample=True, temperature=30.0, num_beams=2, repetition_penalty=3.0)
    seen = []
    generate = transformers.GenerationMixin.generate

    def spied(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((self.generation_config.repetition_penalty, kwargs["do_sample"], kwargs["num_beams"]))
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(transformers.GenerationMixin, "generate", spied)
    argv = ["verify", "--model", str(folder), "--max-new-tokens", "6", "--gpu-memory", "25%", "--json"]
    assert main(argv) == 0
    assert document_of(capsys.readouterr().out)["bit_identical"]
    assert seen == [(3.0, False, 1)] * 6


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "--prompt", PROMPT, *MACHINE, "--cpu-kernel", "blas"], "unknown CPU kernel"),
        (["run", "--prompt", PROMPT, *MACHINE, "--stand-in-for", "gpt"], "unknown model 'gpt'"),
        (["run", "--prompt", PROMPT, *MACHINE, "--gpu-precision", "int3"], "unknown GPU precision 'int3'"),
        (["run", "--prompt", " "], "the prompt has no tokens"),
        (["verify", "--policy", "nope"], "unknown policy 'nope'"),
        (["verify", "--hardware", "nope"], "unknown machine 'nope'"),
        (["verify", "--gpu-memory", "25%,lots"], "'lots' is not an amount"),
        (["verify", "--gpu-memory", "25%,1KiB"], "holds no expert"),
        (["verify", "--prompt", ""], "the prompt has no tokens"),
        (["verify", "--perplexity", "--gpu-precision", "int8", "--policy", "nope"], "unknown policy 'nope'"),
    ],
)
def test_a_wrong_option_is_said_before_weights_are_read(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], message: str
) -> None:
    monkeypatch.setattr(Reader, "_slice", lambda *_: pytest.fail("a weight was read"))
    assert main([*argv, "--model", str(folder)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hetsched:")]
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(
    "argv", [["--policy", "nope"], ["--cpu-kernel", "blas"], ["--gpu-memory", "lots"], ["--time-scale", "0.1"]]
)
def test_demo_says_it_before_minutes_of_building(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    monkeypatch.setattr(demo_model, "build_demo_model", lambda *_, **__: pytest.fail("a build began"))
    assert main(["demo", *argv]) == 2
    assert capsys.readouterr().err.startswith("hetsched: ")


def test_a_start_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (False, True):
        screen = io.StringIO()
        made = Console(file=screen, force_terminal=terminal, width=80)
        monkeypatch.setattr(progress, "Console", lambda made=made, **_: made)
        with progress.stage("importing torch"):
            pass
        assert ("importing torch" in screen.getvalue()) == terminal
        with progress.stage("reading weights", shown=False):
            pass
        assert "reading weights" not in screen.getvalue()


def test_a_model_built_with_other_settings_gets_today_s_without_a_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HETSCHED_CACHE", str(tmp_path))
    monkeypatch.setattr(demo_model, "build_demo_model", lambda *_, **__: pytest.fail("built again"))
    folder = tmp_path / "models" / f"demo-v{demo_model.RECIPE_VERSION}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("minutes of work")
    old = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(old))
    assert demo_model.demo_model_path(progress=False) == folder
    settings = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, **SETTINGS}
    written = folder / "generation_config.json"
    assert json.loads(written.read_text()) == settings
    assert (folder / "model.safetensors").read_text() == "minutes of work"
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    before = written.stat().st_mtime_ns
    mend(folder)
    assert written.stat().st_mtime_ns == before
    written.write_text("{")
    with pytest.raises(InputError, match=r"is damaged .* built again"):
        mend(folder)


def test_repetition_by_hand() -> None:
    """Counted on paper."""
    assert distinct_share([1, 2, 3, 4]) == 1.0
    assert distinct_share([1, 2, 1, 2, 1]) == 2 / 4
    assert repeated_share([1, 2, 3, 4, 9, 1, 2, 3, 4]) == 8 / 9
    assert repeated_share([7] * 6) == 1.0
    assert repeated_share([1, 2, 3, 4, 5, 6]) == 0.0
    assert distinct_share([]) == 1.0
    assert repeated_share([]) == 0.0


@pytest.mark.parametrize(
    "line",
    [
        ["run", "--prompt", PROMPT, "--greedy", *MACHINE],
        ["run", "--prompt", PROMPT, "--temperature", "0.7", *MACHINE],
        ["verify", "--prompt", PROMPT, *MACHINE],
        ["trace", "record", "--prompts", "prompts.txt", "--out", "new.npz"],
    ],
    ids=("greedy", "drawn", "verify", "record"),
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_make_no_text(
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    line: list[str],
    value: float,
) -> None:
    """The likeliest of tokens that all have no score is the first, and eager would go on with it for ever."""
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][5] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text(PROMPT)
    assert main([*line, "--model", str(folder), "--max-new-tokens", "2"]) == 2
    out, err = capsys.readouterr()
    assert "hetsched: the model computes infinities, or what is no number" in err
    assert not out
    assert not Path("new.npz").exists()


def test_the_prompts_measured_are_in_no_calibration_chat() -> None:
    from hetsched.demo_model.calibration import SEED
    from hetsched.demo_model.prompts import asked_prompts, chat_prompts

    assert len(held_out_prompts()) == 6
    assert sorted([*asked_prompts(SEED), *held_out_prompts()]) == sorted(chat_prompts(SEED))
    assert not set(held_out_prompts()) & set(asked_prompts(SEED))


def test_model_text_reports_what_its_texts_hold(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """Figures follow from the texts, whose words are their tokens; the penalty is the file's or the option's."""
    configure(folder, repetition_penalty=1.5)
    argv = ["model", "text", "--model", str(folder), "--max-new-tokens", "20", "--json"]
    documents = []
    for more in ([], ["--repetition-penalty", "1"]):
        assert main([*argv, *more]) == 0
        documents.append(document_of(capsys.readouterr().out))
    assert [document["repetition_penalty"] for document in documents] == [1.5, 1.0]
    for document in documents:
        rows = document["rows"]
        assert [row["prompt"] for row in rows] == held_out_prompts()
        assert document["distinct_2"] == pytest.approx(sum(row["distinct_2"] for row in rows) / len(rows))
        for row in rows:
            ids = [hash(word) for word in row["text"].split()]
            if len(ids) == row["tokens"]:  # no special token was left out
                assert row["distinct_2"] == distinct_share(ids)
                assert row["repeated_4gram_share"] == repeated_share(ids)
    assert documents[0]["distinct_2"] > documents[1]["distinct_2"]
    assert main([*argv, "--repetition-penalty", "0"]) == 2
