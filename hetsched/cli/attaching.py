"""What the verbs that run a model share: its options, and loading it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hetsched.accelerators.emulated.clock import MAX_SCALE
from hetsched.errors import InputError
from hetsched.loading.hub import is_gguf, located
from hetsched.loading.progress import stage
from hetsched.machine.demo_geometry import DEMO as DEMO
from hetsched.machine.hardware import is_this_machine
from hetsched.memory.plan import USUAL_CONTEXT
from hetsched.reading import HEAD_BYTES, kind_of, open_regular
from hetsched.report.steering_view import steered_words

from .option_types import NotedOption, at_least_one, finite_float, non_empty_text, refuse_given
from .paths import InputFile
from .prompting import check_ids
from .prompting import check_prompt as check_prompt
from .prompting import encode as encode

ATTACH_TIME_SCALE = 20.0  # attach()'s own, which is not imported for a help text: it would load torch


def add_machine_options(
    parser: argparse.ArgumentParser,
    *,
    hardware: str | None = None,
    gpu_memory: str | None = None,
    stand_in_for: str | None = None,
    cpu_kernel: str | None = None,
    time_scale: float = ATTACH_TIME_SCALE,
) -> None:
    """--hardware, --gpu-memory, --policy, --solver, --forecaster, --stand-in-for, --cpu-kernel and --dense-kernel, and
    --time-scale."""
    text = f"machine to emulate, or 'cpu': see 'hetsched profiles list' (default: {hardware or 'this machine'})"
    parser.add_argument("--hardware", type=non_empty_text, default=hardware, metavar="NAME", help=text)
    usual = gpu_memory.replace("%", "%%") if gpu_memory else "what the GPU has beside the rest of the model"
    text = f"GPU memory for experts: 8GiB, 512MB, or 25%% of them (default: {usual})"
    parser.add_argument(
        "--gpu-memory", type=non_empty_text, action=NotedOption, default=gpu_memory, metavar="SIZE", help=text
    )
    text = "strategy (default: %(default)s)"
    parser.add_argument("--policy", type=non_empty_text, default="hetsched", metavar="NAME", help=text)
    text = "dispatch solver (default: %(default)s)"
    parser.add_argument("--solver", type=non_empty_text, default="exact", metavar="NAME", help=text)
    text = "forecaster of a strategy that asks one (default: the strategy's own)"
    parser.add_argument("--forecaster", type=non_empty_text, metavar="NAME", help=text)
    text = f"emulated machines: let layers take the time of this model's (default: {stand_in_for or 'their own'})"
    parser.add_argument("--stand-in-for", type=non_empty_text, default=stand_in_for, metavar="MODEL", help=text)
    usual = cpu_kernel or "eager on emulated machines, auto on this one"
    text = f"CPU experts: eager (bit for bit), auto (fastest lossless), or a kernel (default: {usual})"
    parser.add_argument("--cpu-kernel", type=non_empty_text, default=cpu_kernel, metavar="NAME", help=text)
    text = (
        "without a GPU, linear maps outside the experts: torch, auto (the faster), packed, packed-int8 (default: auto)"
    )
    parser.add_argument("--dense-kernel", type=non_empty_text, metavar="NAME", help=text)
    text = "emulated machines: wall seconds per emulated second (default: %(default)g)"
    parser.add_argument(
        "--time-scale", type=finite_float(1, MAX_SCALE), action=NotedOption, default=time_scale, metavar="X", help=text
    )


def add_context_options(parser: argparse.ArgumentParser) -> None:
    """--context and --follow-cache: room for the KV cache beside the experts."""
    text = f"tokens that the KV cache is to have room for (default: {USUAL_CONTEXT}, or what the run needs)"
    parser.add_argument("--context", type=at_least_one, metavar="N", help=text)
    text = "experts give way where the KV cache outgrows its room, and come back with the next request"
    parser.add_argument("--follow-cache", action="store_true", help=text)


def context_options(args: argparse.Namespace) -> dict[str, Any]:
    """attach()'s arguments for these. Raises InputError where there is no GPU whose experts could give way."""
    if args.follow_cache and str(args.hardware).lower() == "cpu":
        raise InputError("--follow-cache gives the cache room that experts have on a GPU, and 'cpu' has none; drop it")
    return {"context": args.context, "follow_cache": args.follow_cache}


def context_for(tokens: int) -> int | None:
    """What to plan for, where nobody says: attach()'s own choice, or all tokens of the run where these are more."""
    return tokens if tokens > USUAL_CONTEXT else None


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    """--gpu-precision: lossy, so only for verbs that say so in their output."""
    parser.add_argument(
        "--gpu-precision",
        type=non_empty_text,
        metavar="NAME",
        help="LOSSY: copies on the GPU in int8, int4 or another format, or auto (default: exact weights)",
    )


def add_steer_option(parser: argparse.ArgumentParser) -> None:
    """--steer: lossy, so only for verbs that say so in their output, or refuse it."""
    text = "LOSSY: force experts on or off as this file of 'analyse experts' says (default: none)"
    parser.add_argument("--steer", action=InputFile, metavar="FILE", help=text)


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """--trust-remote-code."""
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run Python code that comes with the checkpoint (default: refuse what needs it)",
    )


def lossy_label(stats: dict[str, Any]) -> str:
    """What stands before the figures of a run that is steered, rounds activations or has lossy copies; else nothing."""
    copies = "" if stats["gpu_precision"] == "exact" else f", {stats['gpu_precision']} experts on the GPU"
    steered = steered_words(stats.get("steered"))
    rounded = ", activations rounded to 8 bits on the CPU" if "int8" in stats.get("cpu_kernel", "") else ""
    return "" if stats["lossless"] else f"LOSSY{copies}{rounded}{steered and f', {steered}'}: "


def machine_options(args: argparse.Namespace) -> dict[str, Any]:
    """attach()'s arguments from the parsed options. Raises InputError for those that the machine has no use for."""
    options = {
        "hardware": args.hardware,
        "gpu_memory": args.gpu_memory,
        "policy": args.policy,
        "solver": args.solver,
        "forecaster": args.forecaster,
        "stand_in_for": args.stand_in_for,
        "cpu_kernel": args.cpu_kernel,
        "dense_kernel": args.dense_kernel,
        "gpu_precision": getattr(args, "gpu_precision", None),
        "steer": getattr(args, "steer", None),
    }
    if is_this_machine(args.hardware):
        refuse_given(args, ("time_scale",), "stretches the time of emulated machines, and this one is real")
        return options
    return {**options, "time_scale": args.time_scale}


def options_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    """attach()'s arguments for each of --gpu-memory's amounts; without a GPU there is none."""
    budgets = [None] if str(args.hardware).lower() == "cpu" else str(args.gpu_memory).split(",")
    return [{**machine_options(args), "gpu_memory": budget} for budget in budgets]


def load_model(
    name: str,
    *,
    progress: bool = True,
    trust_remote_code: bool = False,
    options: Sequence[Mapping[str, Any]] = (),
    prompts: Callable[[Any], Iterable[Any]] = lambda _: (),
) -> tuple[Any, Any]:
    """Model and tokenizer from a checkpoint folder, a GGUF file, the hub, or the demo model, which is built if absent.

    `options`: attach()'s, once or several times, to be checked before the demo model is built or any weight is read.
    `prompts`: token ids by the tokenizer, to be checked, too.

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
    name = DEMO if name.lower() == DEMO else name
    folder = model_folder(name, progress=progress)
    transformers.utils.logging.disable_progress_bar()
    with stage("reading config and tokenizer", shown=progress):
        config = read_config(folder, trust_remote_code=trust_remote_code)
        from_config(config)
        tokenizer = load_tokenizer(folder, trust_remote_code)
        for ids in prompts(tokenizer):
            check_ids(ids, config.get_text_config().vocab_size)
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


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a checkpoint folder or a GGUF file. Raises InputError where there is none."""
    import transformers

    from hetsched.loading.gguf_tokenizer import tokenizer_of
    from hetsched.loading.remote_code import at_work

    if is_gguf(folder):
        return tokenizer_of(folder)
    fix = "download its tokenizer's files again"
    with at_work(folder, f"{folder} has no tokenizer that transformers reads", fix):
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def model_folder(name: str, *, progress: bool = True) -> Path:
    """The checkpoint of --model: the demo model's, built if absent, a folder or GGUF file here, or what the hub has.

    Raises InputError where there is none.
    """
    if name == DEMO:
        from hetsched.demo_model import demo_model_path

        return demo_model_path(progress=progress)
    folder = located(name, progress=progress)
    if is_gguf(folder):
        return folder
    if not (folder / "config.json").is_file():
        kind, fix = "", "give a checkpoint folder, GGUF file, hub id or 'demo'"
        if folder.is_file():
            with open_regular(folder, "a model") as file:
                kind = kind_of(file.read(HEAD_BYTES)) or "a file"
        raise InputError(f"{name} is {f'{kind}, ' if kind else ''}no model folder: it has no config.json; {fix}")
    return folder
