"""Check hetsched on your GPU with one command, and write one JSON file to send back.

    python examples/gpu_check.py [OUTPUT.json]

Conformance, overlap of copies and computation, the decode kernels of every format, token identity, and a quick profile
of this machine against execution. Takes a few minutes, 8 GB of host memory and 6 GB of the GPU's. Without a GPU: one
line, exit code 2.
"""

from __future__ import annotations

import copy
import json
import platform
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import hetsched
from hetsched.accelerators.cuda.device import CudaAccelerator, require_gpu
from hetsched.accelerators.cuda.loads import LOADS
from hetsched.bench import device_check
from hetsched.engine.quantised_store import copied_layout
from hetsched.errors import InputError
from hetsched.integrations.expert_modules import expert_modules
from hetsched.machine import gallery
from hetsched.measure.profile_run import measure_profile
from hetsched.measure.request import Request
from hetsched.packed import parameter_names, put_packed
from hetsched.tiers import PRECISIONS

GENERATE: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def make(capacity_bytes: int, raw_kernels: bool = False) -> CudaAccelerator:
    """A fresh accelerator on the first GPU."""
    return CudaAccelerator(capacity_bytes=capacity_bytes, raw_kernels=raw_kernels)


def olmoe(layers: int = 4, experts: int = 64, hidden: int = 2048, ffn: int = 1024) -> Any:
    """A random model with OLMoE's expert geometry and few layers, bf16, in host memory."""
    from transformers import OlmoeConfig, OlmoeForCausalLM

    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=1024,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=16,
        num_experts=experts,
        num_experts_per_tok=8,
        experts_implementation="eager",
    )
    return OlmoeForCausalLM(config).to(torch.bfloat16).eval()


def attached_olmoe() -> tuple[Any, Callable[[], object]]:
    """The model under a quick profile of this machine, half of its experts on the GPU, and what runs it."""
    profile = measure_profile(Request(gallery.model("olmoe-1b-7b"), "cuda", quick=True))
    model = olmoe()
    attachment = hetsched.attach(model, hardware=profile, gpu_memory="50%", accelerator=CudaAccelerator(profile))
    ids = torch.arange(16, device="cuda").unsqueeze(0)
    return attachment, lambda: model.generate(ids, **{**GENERATE, "max_new_tokens": 64})


def tokens(raw_kernels: bool = False) -> dict[str, Any]:
    """Greedy tokens of a small model, all on the GPU by eager, and attached with a quarter of the experts there."""
    model = olmoe(layers=2, experts=16, hidden=128, ffn=64).float()
    ids = torch.arange(3, 15, device="cuda").unsqueeze(0)
    expected = copy.deepcopy(model).to("cuda").generate(ids, **GENERATE)
    gpu = make(1 << 28, raw_kernels)
    with hetsched.attach(model, hardware="rtx-4060-laptop-8gb", gpu_memory="25%", accelerator=gpu):
        found = model.generate(ids, **GENERATE)
    return {"identical": bool(torch.equal(found, expected)), "tokens": int(found.numel())}


def packed_tokens(precision: str) -> dict[str, Any]:
    """Greedy tokens with experts packed, a quarter of them on the GPU, against the same numbers unpacked, by eager."""
    model, plain = (olmoe(layers=2, experts=16, hidden=128, ffn=64).float() for _ in range(2))
    for module, unpacked in zip(expert_modules(model), expert_modules(plain), strict=True):
        pack(module, precision)
        for name in parameter_names(module):
            getattr(unpacked, name).data = getattr(module, name).data.unpacked()
    ids = torch.arange(3, 15, device="cuda").unsqueeze(0)
    expected = plain.to("cuda").generate(ids, **GENERATE)
    options: dict[str, Any] = {"hardware": "rtx-4060-laptop-8gb", "gpu_memory": "25%", "cpu_kernel": "eager"}
    with hetsched.attach(model, **options, accelerator=make(1 << 28)):
        found = model.generate(ids, **GENERATE)
    return {"identical": bool(torch.equal(found, expected)), "tokens": int(found.numel())}


def pack(module: Any, precision: str) -> None:
    """Let an expert module's parameters be stored in a format: the nearest numbers that it has."""
    layout = copied_layout(module, PRECISIONS[precision])
    rows = layout.allocate(module.num_experts)
    for e, row in enumerate(rows):
        layout.fill(row, {name: getattr(module, name).data[e] for name in parameter_names(module)})
    put_packed(module, layout, rows)


def execution() -> dict[str, float]:
    """Predicted against executed, with what the accelerator remarked."""
    attachment, generate = attached_olmoe()
    with attachment:
        return device_check.predicted_and_executed(attachment, generate)


def tried(check: Callable[[], Any]) -> Any:
    """What a check found, or how it failed: the file is worth sending either way."""
    try:
        return check()
    except Exception:
        return {"failed": traceback.format_exc()}


def main() -> int:
    """Run all checks; 0 done, 2 without a GPU."""
    try:
        require_gpu()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "gpu_check.json")
    checks: dict[str, Callable[[], Any]] = {
        "laws": lambda: device_check.laws(make),
        "overlap": lambda: device_check.overlap(make),
        "overlap_pageable": lambda: device_check.overlap(make, pinned=False),
        "urgency": lambda: device_check.urgency(make),
        "kernels_fp32": lambda: device_check.kernels(torch.float32),
        "kernels_bf16": lambda: device_check.kernels(torch.bfloat16),
        "kernels_fp16": lambda: device_check.kernels(torch.float16),
        **{f"kernels_{name}": partial(device_check.kernels, torch.bfloat16, name) for name in LOADS},
        "tokens": tokens,
        "tokens_raw_kernels": lambda: tokens(raw_kernels=True),
        **{f"tokens_{name}": partial(packed_tokens, name) for name in ("int8", "int4", "mxfp4")},
        "execution": execution,
    }
    report: dict[str, Any] = {
        "schema": "hetsched-gpu-check/1",
        "gpu": torch.cuda.get_device_name(0),
        "capability": list(torch.cuda.get_device_capability(0)),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "system": platform.platform(),
    }
    for name, check in checks.items():
        print(f"{name} ...", flush=True)
        report[name] = tried(check)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {path}; please send it back")
    return 0


if __name__ == "__main__":
    sys.exit(main())
