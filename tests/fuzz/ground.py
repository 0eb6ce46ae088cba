"""What damaged files are made of: one good file of every kind that comes from outside, and commands that read them."""

from __future__ import annotations

import io
import json
import shlex
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from hetsched import cli
from hetsched.testing.models import tiny_moe

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "the", "sea", "was", "calm", *(f"word{i}" for i in range(120))]


class Command(NamedTuple):
    """A command line that works; `{name}` stands for a file of the ground, `{out/name}` for a place that is free.

    `reads`: files of the ground that it reads, each of which may be damaged, by their paths in the ground.
    """

    line: str
    reads: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """As a shell would split it."""
        return tuple(shlex.split(self.line))


FILES = "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
CHECKPOINT = tuple(f"model/{name}" for name in FILES)
SHARDED = ("sharded/config.json", "sharded/model.safetensors.index.json")
TRACE, MACHINE_FILE, MODEL_FILE, PREDICTOR = "trace.npz", "machine.yaml", "geometry.yaml", "predictor.safetensors"
STEERING = """schema: hetsched-steer/1
model: tiny
geometry: {layers: 3, experts: 8, top_k: 4, hidden: 32}
layers:
- layer: 0
  deactivate: [1]
"""
SHORT = "--max-new-tokens 2 --hardware rtx-4060-laptop-8gb --gpu-memory 25% --time-scale 1"
RUN = f"run --prompt 'the sea' {SHORT}"
REPLAY = "--trace {trace.npz} --model {geometry.yaml} --decision 3e-5 --host none"
SMALL = "--strategies static-frequency,cpu-only --max-tokens 20 --gpu-fraction 0.25 --bound-windows 1"

COMMANDS = (
    Command(f"{RUN} --model {{model}}", CHECKPOINT),
    Command(f"{RUN} --model {{sharded}}", SHARDED),
    Command(f"{RUN} --model {{model}} --steer {{steer.yaml}} --json", ("steer.yaml",)),
    Command(
        "run --prompt sea --max-new-tokens 2 --hardware {machine.yaml} --time-scale 1 --model {model}", (MACHINE_FILE,)
    ),
    Command(f"verify --model {{model}} {SHORT}", CHECKPOINT),
    Command("profiles list"),
    Command("profiles show {machine.yaml}", (MACHINE_FILE,)),
    Command("profiles show {geometry.yaml} --json", (MODEL_FILE,)),
    Command("profiles show {model} --format mxfp4,q8_0", ("model/config.json",)),
    Command("profiles show {model.gguf} --format q8_0", ("model.gguf",)),
    Command("profiles validate {machine.yaml}", (MACHINE_FILE,)),
    Command("profiles diff {machine.yaml} rtx-4060-laptop-8gb", (MACHINE_FILE,)),
    Command("solve --random 3 --json"),
    Command("trace info {trace.npz}", (TRACE,)),
    Command("trace split {trace.npz} --at 0.5 --out {out/a.npz} {out/b.npz}", (TRACE,)),
    Command("trace concat {trace.npz} {trace.npz} --out {out/new.npz}", (TRACE,)),
    Command("trace synth --like {trace.npz} --out {out/new.npz}", (TRACE,)),
    Command("trace import {log.csv} --num-experts 8 --out {out/new.npz}", ("log.csv",)),
    Command("trace import {log.jsonl} --num-experts 8 --out {out/new.npz}", ("log.jsonl",)),
    Command(
        "trace record --model {model} --prompts {prompts.txt} --max-new-tokens 2 --out {out/new.npz}",
        ("prompts.txt", *CHECKPOINT),
    ),
    Command(f"simulate {REPLAY} --hardware rtx-4090 --strategy static-frequency", (TRACE, MODEL_FILE)),
    Command(f"simulate {REPLAY} --hardware {{machine.yaml}} --strategy layer-split --json", (MACHINE_FILE,)),
    Command(f"compare {REPLAY} --hardware {{machine.yaml}} {SMALL} --json", (TRACE, MODEL_FILE, MACHINE_FILE)),
    Command("predictor info {predictor.safetensors}", (PREDICTOR,)),
    Command("predictor eval --predictor {predictor.safetensors} --trace {trace.npz}", (PREDICTOR, TRACE)),
    Command("doctor --json"),
)


def prepare(folder: Path) -> None:
    """Make the good files. Takes seconds, and trains a predictor for one pass."""
    _checkpoint(folder / "model")
    _sharded(folder)
    _gguf(folder / "model.gguf")
    profiles = Path(cli.__file__).parents[2] / "profiles"
    shutil.copy(profiles / "machines" / "rtx-4060-laptop-8gb.yaml", folder / MACHINE_FILE)
    sizes = {"num_hidden_layers": 3, "num_experts": 8, "num_experts_per_tok": 2}
    _model_file(folder / MODEL_FILE, profiles / "models" / "olmoe-1b-7b.yaml", sizes)
    quiet(f"trace synth --layers 3 --experts 8 --top-k 2 --tokens 400 --sequences 8 --out {folder / TRACE}")
    quiet(f"predictor train --trace {folder / TRACE} --epochs 1 --out {folder / PREDICTOR}")
    places = [(token, layer) for token in range(4) for layer in range(2)]
    rows = [{"layer": layer, "token": token, "experts": [token, 7 - token]} for token, layer in places]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"{layer},{token},{token},{7 - token}" for token, layer in places]
    (folder / "log.csv").write_text("\n".join(["layer,token,expert_0,expert_1", *lines, ""]))
    (folder / "prompts.txt").write_text("the sea\nwas calm\n")
    (folder / "steer.yaml").write_text(STEERING)


def quiet(line: str) -> None:
    """A command that has to work."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = cli.main(shlex.split(line))
    assert code == 0, f"{line}: {said.getvalue()}"


def _checkpoint(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tiny_moe().save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    if not (folder / "generation_config.json").exists():
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "pad_token_id": 0}))


def _sharded(folder: Path) -> None:
    shutil.copytree(folder / "model", folder / "sharded")
    (folder / "sharded" / "model.safetensors").unlink()
    tiny_moe().save_pretrained(folder / "sharded", max_shard_size="60KB")


def _gguf(path: Path) -> None:
    from tests.loading.made_gguf import KIND, write
    from tests.loading.test_gguf import tiny

    write(path, tiny("qwen3_moe"), KIND.Q8_0, KIND.Q8_0)


def _model_file(path: Path, source: Path, sizes: dict[str, int]) -> None:
    import yaml

    whole = yaml.safe_load(source.read_text())
    config = {**whole["config"], **sizes}
    published = {"total_params": 1e9, "active_params": 1e8, "source": "made up"}
    path.write_text(yaml.safe_dump({**whole, "name": "small", "config": config, "published": published}))
