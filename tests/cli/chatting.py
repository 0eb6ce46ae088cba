"""A tiny checkpoint whose tokenizer has a chat template: every role is a word, and the prompt ends with the model's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

SYSTEM, USER, ASSISTANT = "word0", "word1", "word2"
TEMPLATE = (
    "{% set words = {'system': 'word0', 'user': 'word1', 'assistant': 'word2'} %}"
    "{% for m in messages %}{{ words[m['role']] }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}word2{% endif %}"
)
MACHINE = ("--hardware", "rtx-4060-laptop-8gb", "--time-scale", "1", "--gpu-memory", "25%")


def chat_folder(checkpoint: Path, folder: Path, template: str = TEMPLATE) -> Path:
    """A copy of a checkpoint that does not end its texts, with a chat template."""
    shutil.copytree(checkpoint, folder)
    configure(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    return folder


def configure(folder: Path, **settings: Any) -> None:
    """Its generation_config.json."""
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": None, "pad_token_id": 0, **settings}))


def expected(folder: Path, prompt: str, tokens: int, *, seed: int = 0, **settings: Any) -> str:
    """What transformers generates from that folder after a prompt that is written out, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    torch.manual_seed(seed)
    out = AutoModelForCausalLM.from_pretrained(folder).generate(ids, max_new_tokens=tokens, **settings)
    text: str = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return text
