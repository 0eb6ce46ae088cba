"""What the verbs that run a model share: its options, loading it, and its prompt."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hetsched.errors import InputError

DEMO = "demo"


def add_machine_options(
    parser: argparse.ArgumentParser, gpu_memory: str | None = None, time_scale: float = 20.0
) -> None:
    """--hardware, --gpu-memory, --policy, --solver, --stand-in-for, --cpu-kernel, --time-scale.

    `time_scale`: the usual one, on emulated machines.
    """
    parser.add_argument("--hardware", metavar="NAME", help="machine to emulate, or 'cpu': see 'hetsched profiles list'")
    parser.add_argument(
        "--gpu-memory", default=gpu_memory, metavar="SIZE", help="GPU memory for experts: 8GiB, 512MB, or 25%% of them"
    )
    parser.add_argument("--policy", default="hetsched", metavar="NAME", help="strategy (default: %(default)s)")
    parser.add_argument("--solver", default="exact", metavar="NAME", help="dispatch solver (default: %(default)s)")
    parser.add_argument(
        "--stand-in-for", metavar="MODEL", help="let layers take the time of this gallery model's (emulated machines)"
    )
    parser.add_argument(
        "--cpu-kernel", metavar="NAME", help="CPU experts: eager (bit for bit), auto (fastest lossless), or a kernel"
    )
    text = f"wall seconds per emulated second (default: {time_scale:g})"
    parser.add_argument("--time-scale", type=float, metavar="X", help=text)
    parser.set_defaults(usual_time_scale=time_scale)


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    """--gpu-precision: lossy, so only for verbs that say so in their output."""
    parser.add_argument(
        "--gpu-precision",
        metavar="NAME",
        help="LOSSY: int8 or int4 copies on the GPU, or auto (default: exact weights)",
    )


def lossy_label(stats: dict[str, Any]) -> str:
    """What stands before every figure of a run whose GPU experts are lossy copies; nothing before others."""
    return "" if stats["lossless"] else f"LOSSY, {stats['gpu_precision']} experts on the GPU: "


def machine_options(args: argparse.Namespace) -> dict[str, Any]:
    """attach()'s arguments from the parsed options."""
    from hetsched.hardware import is_this_machine

    usual = None if is_this_machine(args.hardware) else args.usual_time_scale
    return {
        "hardware": args.hardware,
        "gpu_memory": args.gpu_memory,
        "policy": args.policy,
        "solver": args.solver,
        "stand_in_for": args.stand_in_for,
        "cpu_kernel": args.cpu_kernel,
        "gpu_precision": getattr(args, "gpu_precision", None),
        "time_scale": usual if args.time_scale is None else args.time_scale,
    }


def load_model(name: str, *, progress: bool = True, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """Model and tokenizer from a checkpoint folder, or the demo model, which is built if absent.

    `options`: attach()'s, to be checked before any weight is read.

    Raises InputError for a folder without config.json or a model without routed experts, before any weight is read.
    """
    import torch
    import transformers

    from hetsched.geometry import from_config
    from hetsched.loading.load import load_model as loaded
    from hetsched.loading.model_on_meta import read_config

    folder = _folder(name, progress)
    transformers.utils.logging.disable_progress_bar()
    from_config(read_config(folder))
    # The demo model is stored in bf16, which most CPUs emulate slowly; its arithmetic is done in fp32.
    dtype = torch.float32 if name == DEMO else None
    model = loaded(folder, dtype=dtype, progress=progress, options=options)
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def encode(tokenizer: Any, prompt: str) -> Any:
    """Token ids [1, T] of a prompt, through the chat template where there is one. Raises InputError for no tokens."""
    if not prompt.strip():
        raise InputError("the prompt has no tokens; give --prompt some text")
    if getattr(tokenizer, "chat_template", None):
        message = [{"role": "user", "content": prompt}]
        encoded = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return encoded["input_ids"]
    return tokenizer(prompt, return_tensors="pt")["input_ids"]


def at_least_one(text: str) -> int:
    """An argparse type: a whole number >= 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _folder(name: str, progress: bool) -> Path:
    if name == DEMO:
        from hetsched.demo_model import demo_model_path

        return demo_model_path(progress=progress)
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        raise InputError(f"{name} is no model folder: it has no config.json; give a checkpoint folder or 'demo'")
    return folder
