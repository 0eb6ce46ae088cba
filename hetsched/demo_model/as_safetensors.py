"""The demo model as a packed safetensors checkpoint, as such ones are published: every expert's matrices by name.

Shapes: E experts, R rows, C columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hetsched.demo_model.packer import Packer, tensors_of
from hetsched.demo_model.progress import Tick

COPIED = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md")
GROUP = {"bits": 4, "group_size": 32}
INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "actorder": None}
SETTINGS: dict[str, dict[str, Any]] = {
    "fp8-block": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    },
    "int4-group": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": INT4, "input_activations": None}},
    },
    "gptq": {"quant_method": "gptq", "checkpoint_format": "gptq", "desc_act": False, "sym": True, **GROUP},
    "awq": {"quant_method": "awq", "version": "gemm", "zero_point": True, **GROUP},
}
IGNORED = {"fp8-block": "modules_to_not_convert", "int4-group": "ignore", "awq": "modules_to_not_convert"}
PACKED = re.compile(r"\.layers\..*_proj\.weight")


def safetensors_writer(name: str, model: Any, source: Path, packer: Packer, tick: Tick) -> Callable[[Path], None]:
    """What writes the packed model to a folder."""
    stored: dict[str, torch.Tensor] = {}
    left: list[str] = []
    for key, value in _matrices(model, tick):
        if not PACKED.search(key):
            stored[key] = value.contiguous()
            continue
        laid, parts = packer.packed(value)
        stem = key.removesuffix("weight")
        stored |= {stem + laid.stored_as[part]: tensor.contiguous() for part, tensor in parts.items()}
        if laid.name == "int4-group":
            stored[f"{stem}weight_shape"] = torch.tensor(value.shape)
        if laid.name == "bf16":
            left.append(stem.removesuffix("."))
    config = _config(name, model, left)

    def write(folder: Path) -> None:
        save_file(stored, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        for file in COPIED:
            if (source / file).is_file():
                (folder / file).write_bytes((source / file).read_bytes())

    return write


def _matrices(model: Any, tick: Tick) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters by their names in checkpoints: experts one by one, gate and up apart."""
    for name, value in tensors_of(model, tick):
        stem, _, kind = name.rpartition(".experts.")
        if not stem:
            yield name, value
            continue
        for e, weights_RC in enumerate(value):
            halves = weights_RC.chunk(2) if kind == "gate_up_proj" else (weights_RC,)
            called = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
            for half, each in zip(halves, called, strict=True):
                yield f"{stem}.experts.{e}.{each}.weight", half


def _config(name: str, model: Any, left: list[str]) -> dict[str, Any]:
    """config.json, with what is packed and how."""
    found: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    found["architectures"] = [type(model).__name__]
    if name in SETTINGS:
        routers = [key.removesuffix(".weight") for key in model.state_dict() if re.search(r"gate\.weight$", key)]
        ignored = {IGNORED[name]: ["lm_head", *routers, *left]} if name in IGNORED else {}
        found["quantization_config"] = SETTINGS[name] | ignored
    return found
