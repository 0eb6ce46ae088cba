"""The good files that are damaged: one of every kind that comes from outside, as small as it can be."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hetsched import cli
from hetsched.testing.models import tiny_moe

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "the", "sea", "was", "calm", *(f"word{i}" for i in range(120))]
TRACE, MACHINE_FILE, MODEL_FILE, PREDICTOR = "trace.npz", "machine.yaml", "geometry.yaml", "predictor.safetensors"
LEARNED = "cache/learned.npz"  # a run writes it anew, as it may in a cache
STEERING = """schema: hetsched-steer/1
model: tiny
geometry: {layers: 3, experts: 8, top_k: 4, hidden: 32}
layers:
- layer: 0
  deactivate: [1]
"""
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}the"
SHORT = "--max-new-tokens 2 --hardware rtx-4060-laptop-8gb --gpu-memory 25% --time-scale 1"
REPLAY = "--trace {trace.npz} --model {geometry.yaml} --decision 3e-5 --host none --bound-windows 1 --max-tokens 20"
SMALL = "--strategies static-frequency,cpu-only --gpu-fraction 0.25"
RECORD = "trace record --model {model} --prompts {prompts.txt} --max-new-tokens 2"
LOG, COMPARED, MEASURED, BEGUN = "run.jsonl", "compare.json", "cache/profiles/measured.yaml", "begun.npz"


def prepare(folder: Path) -> None:
    """Make the good files. Takes seconds, trains a predictor for one pass, and measures the host."""
    os.environ["HETSCHED_CACHE"] = str(folder / "cache")
    checkpoint(folder / "model")
    for name in ("sharded", "chat", "draft", "pickled"):
        shutil.copytree(folder / "model", folder / name)
    _sharded(folder / "sharded")
    _pickled(folder / "pickled")
    _adapter(folder / "adapter", folder / "model")
    (folder / "chat" / "chat_template.jinja").write_text(TEMPLATE)
    _gguf(folder / "model.gguf", (folder / "model" / "tokenizer.json").read_text())
    _of_tables(folder)
    for name, text in {
        "prompts.txt": "the sea\nwas calm\n",
        "more.jsonl": '{"prompt": "was"}\n{"prompt": "calm"}\n',
        "steer.yaml": STEERING,
    }.items():
        (folder / name).write_text(text)
    (folder / LEARNED).parent.mkdir()
    quiet(f"run --prompt sea {SHORT} --model {folder / 'model'} --learned {folder / LEARNED}")
    _of_replays(folder)
    _begun(folder)
    shutil.copy(folder / MACHINE_FILE, folder / MEASURED)


def quiet(line: str) -> str:
    """A command that has to work; what it says."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = cli.main(shlex.split(line))
    assert code == 0, f"{line}: {said.getvalue()}"
    return said.getvalue()


def checkpoint(folder: Path) -> None:
    """A checkpoint with a tokenizer of words, and settings of every kind."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tiny_moe().save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {"eos_token_id": [2], "pad_token_id": 0, "bos_token_id": 1}
    drawn = {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.1}
    (folder / "generation_config.json").write_text(json.dumps({**settings, **drawn}))


def _sharded(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    kept = (folder / "generation_config.json").read_text()
    tiny_moe().save_pretrained(folder, max_shard_size="60KB")
    (folder / "generation_config.json").write_text(kept)


def _pickled(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _adapter(folder: Path, base: Path) -> None:
    """Of PEFT's form: two low-rank factors for one matrix."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, folder / name)
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(base)}))
    matrix = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{matrix}.lora_A.weight": torch.zeros(2, 32), f"{matrix}.lora_B.weight": torch.zeros(32, 2)}
    save_file(factors, folder / "adapter_model.safetensors")


def placed(line: str, folder: Path) -> str:
    """A line whose `{name}` are paths in a folder."""
    return re.sub(r"\{([^}]*)\}", lambda found: str(folder / found[1]), line)


def _of_replays(folder: Path) -> None:
    """A run's log, a comparison, and the host's own time in the cache."""
    from hetsched.bench.host_cost import measure_host
    from hetsched.machine.host_cost import keep_host

    replay = placed(REPLAY, folder)
    quiet(f"simulate {replay} --hardware rtx-4090 --log {folder / LOG}")
    keep_host(measure_host())
    said = quiet(f"compare {replay} --hardware rtx-4090 {SMALL} --json")
    (folder / COMPARED).write_text(said[said.index("{") :])


def _begun(folder: Path) -> None:
    """What a recording leaves that is killed after its first prompt."""
    from hetsched.traces import writer

    write, counts = writer.write_journal, []

    def dying(place: Path, journal: dict[str, Any]) -> None:
        write(place, journal)
        counts.append(journal["progress"])
        if counts[-1] == 1:
            raise KeyboardInterrupt

    writer.write_journal = dying
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            cli.main(shlex.split(placed(f"{RECORD} --out {{{BEGUN}}}", folder)))
    finally:
        writer.write_journal = write
    assert counts == [1], counts
    (folder / "out").mkdir()
    (folder / f"{BEGUN}.partial").rename(folder / "out" / f"{BEGUN}.partial")


def _gguf(path: Path, tokenizer: str) -> None:
    import gguf

    from tests.loading.made_gguf import KIND, write
    from tests.loading.test_gguf import tiny

    def more(writer: Any) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(WORDS)
        writer.add_string(gguf.Keys.Tokenizer.HF_JSON, tokenizer)
        writer.add_float32("general.sampling.temp", 0.7)

    write(path, tiny("qwen3_moe"), KIND.Q8_0, KIND.Q8_0, more=more)


def _of_tables(folder: Path) -> None:
    """Machines, models, traces and what comes of them."""
    profiles = Path(cli.__file__).parents[2] / "profiles"
    shutil.copy(profiles / "machines" / "rtx-4060-laptop-8gb.yaml", folder / MACHINE_FILE)
    sizes = {"num_hidden_layers": 3, "num_experts": 8, "num_experts_per_tok": 2}
    _model_file(folder / MODEL_FILE, profiles / "models" / "olmoe-1b-7b.yaml", sizes)
    quiet(f"trace synth --layers 3 --experts 8 --top-k 2 --tokens 400 --sequences 8 --out {folder / TRACE}")
    shutil.copy(folder / TRACE, folder / "fit.npz")
    quiet(f"predictor train --trace {folder / TRACE} --epochs 1 --out {folder / PREDICTOR}")
    places = [(token, layer) for token in range(4) for layer in range(2)]
    rows = [{"layer": layer, "token": token, "experts": [token, 7 - token]} for token, layer in places]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"{layer},{token},{token},{7 - token}" for token, layer in places]
    (folder / "log.csv").write_text("\n".join(["layer,token,expert_0,expert_1", *lines, ""]))


def _model_file(path: Path, source: Path, sizes: dict[str, int]) -> None:
    import yaml

    whole: dict[str, Any] = yaml.safe_load(source.read_text())
    config = {**whole["config"], **sizes}
    published = {"total_params": 1e9, "active_params": 1e8, "source": "made up"}
    path.write_text(yaml.safe_dump({**whole, "name": "small", "config": config, "published": published}))
