"""Tiny checkpoints as transformers writes them, several small shards each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.architectures.discovery import model_classes
from tests.architectures.overrides import CHANGES, NOT_THESE
from tests.architectures.tiny import randomised, tiny_config

SHARD = "60KB"


def made(folder: Path, package: str, shard: str = SHARD, name: str | None = None) -> Any:
    """A random model, the architecture's most complete or the one named, written to `folder`; returns its class."""
    usable = [kind for kind in model_classes(package) if kind.__name__ not in NOT_THESE]
    kind = usable[0] if name is None else next(kind for kind in model_classes(package) if kind.__name__ == name)
    model = randomised(kind(tiny_config(kind.config_class, CHANGES.get(package, {}))))
    model.save_pretrained(folder, max_shard_size=shard)
    return kind


def made_mxfp4(folder: Path, vocab_size: int = 96) -> Any:
    """A gpt-oss checkpoint with packed experts, as the released ones are; returns its class."""
    from transformers import GptOssConfig, GptOssForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_local_experts": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": vocab_size}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    kinds = {"layer_types": ["sliding_attention", "full_attention"]}
    config = GptOssConfig(**sizes, **heads, **tokens, **kinds, num_experts_per_tok=4, dtype="bfloat16")
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for name, value in randomised(GptOssForCausalLM(config).to(torch.bfloat16)).state_dict().items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = value.shape
            blocks = (experts, outputs, inputs // 32)
            tensors[f"{name}_blocks"] = torch.randint(0, 256, (*blocks, 16), dtype=torch.uint8, generator=random)
            tensors[f"{name}_scales"] = torch.randint(118, 126, blocks, dtype=torch.uint8, generator=random)
        else:
            tensors[name] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    written = json.loads(config.to_json_string(use_diff=False)) | {"architectures": ["GptOssForCausalLM"]}
    written["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(written))
    return GptOssForCausalLM


def generated(model: Any) -> torch.Tensor:
    """Logits of a greedy prefill and decode."""
    ids = torch.arange(3, 12)[None]
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), output_logits=True, return_dict_in_generate=True, **options
    )
    return torch.stack(out.logits)
