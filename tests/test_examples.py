"""Every example runs, in a process of its own, as a reader would run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


LOOPS = ("generation_loop.py", "speculate.py")
OF_MODELS = ("transformers_generate.py", *LOOPS)
# What they all import takes longer than what they do: a process for each is forked from one that has imported it.
FORKING = """
import os, runpy, sys
import hetsched.integrations.transformers, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
for path in sys.argv[2:]:
    if os.fork():
        assert os.wait()[1] == 0, path
        print(end="\\x1e", flush=True)
        continue
    sys.argv = [path, sys.argv[1]]
    runpy.run_path(path, run_name="__main__")
    sys.exit()
"""


def run(name: str, *args: str) -> str:
    done = subprocess.run([sys.executable, EXAMPLES / name, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def told(checkpoint: Path) -> dict[str, str]:
    """What the examples of models print."""
    if not hasattr(os, "fork"):
        return {name: run(name, str(checkpoint)) for name in OF_MODELS}
    argv = [sys.executable, "-c", FORKING, checkpoint, *(EXAMPLES / name for name in OF_MODELS)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(OF_MODELS, done.stdout.split("\x1e"), strict=False))


@pytest.mark.parametrize("name", OF_MODELS)
def test_model_examples(name: str, told: dict[str, str]) -> None:
    assert "tokens/s" in told[name]
    assert "%" in told[name]


@pytest.mark.parametrize("name", LOOPS)
def test_the_loop_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 80


@pytest.mark.parametrize("name", LOOPS)
def test_the_loop_says_what_generate_says(name: str, told: dict[str, str], checkpoint: Path) -> None:
    """A loop of one's own, over Scheduler.step and observe or with drafts, gives the tokens of plain generate."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, experts_implementation="eager")
    ids = tokenizer("The sea was calm, and", return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0)
    text = tokenizer.decode(out[0], skip_special_tokens=True)
    assert told[name].startswith(text)


@pytest.mark.parametrize("name", ["write_a_solver.py", "write_an_accelerator.py"])
def test_plug_ins_are_short_and_lawful(name: str) -> None:
    """Under 60 lines each; every law of the conformance suite is run, and holds."""
    from hetsched.testing import accelerators, solvers

    assert len((EXAMPLES / name).read_text().splitlines()) < 60
    out = run(name)
    laws = solvers.LAWS if name == "write_a_solver.py" else accelerators.LAWS
    assert [line for line in out.splitlines() if line.startswith("holds: ")] == [
        f"holds: {law.__name__.replace('_', ' ')}" for law in laws
    ]
    assert "same tokens: True" in out or "step-by-step" in out


def test_a_guard_event_is_shown() -> None:
    """hetsched alone is worst, under guard it is near the static placement; every switch has its line."""
    assert len((EXAMPLES / "guard_event.py").read_text().splitlines()) < 80
    lines = run("guard_event.py", "--tokens", "400").splitlines()
    static_s, alone_s, guarded_s = (float(line.split(": ")[1].split(" s")[0]) for line in lines[1:4])
    assert guarded_s < 1.1 * static_s < alone_s
    assert lines[4].startswith("after step")
    assert "hetsched -> " in lines[4]


def test_packed_models_side_by_side(tmp_path: Path) -> None:
    """A model made in GGUF runs with activations as they are and rounded, in turns; llama.cpp too where it is here."""
    sizes = ("--layers", "1", "--experts", "8", "--hidden", "256", "--ffn", "64", "--vocabulary", "512")
    short = ("--repeats", "1", "--tokens", "2", "--prefill", "40", "--folder", str(tmp_path))
    rows = json.loads(run("side_by_side.py", "--formats", "q4_0", *sizes, *short, "--json"))["rows"]
    ours = {row["name"]: row for row in rows if row["name"].startswith("hetsched")}
    assert {name: row["lossless"] for name, row in ours.items()} == {
        "hetsched": True,
        "hetsched int8 activations": False,
    }
    for row in rows:
        assert row["decode_range"][0] <= row["decode"] <= row["decode_range"][1]
        assert row["prefill"] > 0
