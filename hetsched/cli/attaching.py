"""What the verbs that run a model share: its options, loading it, and its prompt."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hetsched.errors import InputError
from hetsched.loading.progress import stage

DEMO = "demo"


def add_machine_options(parser: argparse.ArgumentParser, gpu_memory: str | None = None) -> None:
    """--hardware, --gpu-memory, --policy, --solver, --stand-in-for, --time-scale."""
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
    parser.add_argument(
        "--time-scale", type=float, default=None, metavar="X", help="wall seconds per emulated second (default: 20)"
    )


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    """--gpu-precision: lossy, so only for verbs that say so in their output."""
    parser.add_argument(
        "--gpu-precision",
        metavar="NAME",
        help="LOSSY: int8 or int4 copies on the GPU, or auto (default: exact weights)",
    )


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """--trust-remote-code."""
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run Python code that comes with the checkpoint (default: refuse what needs it)",
    )


def lossy_label(stats: dict[str, Any]) -> str:
    """What stands before every figure of a run whose GPU experts are lossy copies; nothing before others."""
    return "" if stats["lossless"] else f"LOSSY, {stats['gpu_precision']} experts on the GPU: "


def machine_options(args: argparse.Namespace) -> dict[str, Any]:
    """attach()'s arguments from the parsed options."""
    options = {
        "hardware": args.hardware,
        "gpu_memory": args.gpu_memory,
        "policy": args.policy,
        "solver": args.solver,
        "stand_in_for": args.stand_in_for,
        "cpu_kernel": args.cpu_kernel,
        "gpu_precision": getattr(args, "gpu_precision", None),
    }
    return options if args.time_scale is None else {**options, "time_scale": args.time_scale}


def load_model(
    name: str,
    *,
    progress: bool = True,
    trust_remote_code: bool = False,
    options: Sequence[Mapping[str, Any]] = (),
) -> tuple[Any, Any]:
    """Model and tokenizer from a checkpoint folder, or the demo model, which is built if absent.

    `options`: attach()'s, once or several times, to be checked before the demo model is built or any weight is read.

    Raises InputError for a folder without config.json or a model without routed experts, before any weight is read.
    """
    with stage("importing torch and transformers", shown=progress):
        import torch
        import transformers

        from hetsched.geometry import from_config
        from hetsched.integrations.choices import check_options
        from hetsched.loading.load import load_model as loaded
        from hetsched.loading.model_on_meta import read_config
    for given in options:
        check_options(given)
    folder = _folder(name, progress)
    transformers.utils.logging.disable_progress_bar()
    with stage("reading config and tokenizer", shown=progress):
        from_config(read_config(folder, trust_remote_code=trust_remote_code))
        tokenizer = _tokenizer(folder, trust_remote_code)
    # The demo model is stored in bf16, which most CPUs emulate slowly; its arithmetic is done in fp32.
    dtype = torch.float32 if name == DEMO else None
    model = loaded(folder, dtype=dtype, progress=progress, trust_remote_code=trust_remote_code, options=options)
    return model, tokenizer


@contextmanager
def attached(model: Any, options: Mapping[str, Any], **more: Any) -> Iterator[Any]:
    """attach()'s handle; on a terminal it is said that attaching takes its time."""
    from hetsched import attach

    with stage("attaching; the first time in an environment compiles"):
        handle = attach(model, **options, **more)
    with handle:
        yield handle


def check_prompt(prompt: str) -> None:
    """Raise InputError for a prompt without tokens."""
    if not prompt.strip():
        raise InputError("the prompt has no tokens; give --prompt some text")


def _tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    """The folder's tokenizer. Raises InputError where there is none."""
    import transformers

    from hetsched.loading.remote_code import refused_code

    try:
        with refused_code(folder):
            return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} has no tokenizer that transformers reads: {error}") from error


def encode(tokenizer: Any, prompt: str) -> Any:
    """Token ids [1, T] of a prompt, through the chat template where there is one. Raises InputError for no tokens."""
    check_prompt(prompt)
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
