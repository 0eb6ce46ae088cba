"""`hetsched trace record`: a model's routing while it generates."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from hetsched.errors import InputError
from hetsched.traces.trace import load_trace

from .attaching import add_steer_option, add_trust_option
from .drafting import MOST_DRAFTS
from .option_types import at_least_one, whole
from .paths import InputFile, NameOrPath, OutputFile
from .progress import progress_bar

if TYPE_CHECKING:
    from hetsched.steering.file import Steering


def add_record_options(record: argparse.ArgumentParser) -> None:
    """What is recorded, with which prompts, and where it goes."""
    record.add_argument(
        "--model",
        required=True,
        action=NameOrPath,
        metavar="PATH",
        help="checkpoint folder, GGUF file, hub id, or 'demo'",
    )
    text = 'one prompt a line, or .jsonl with "prompt" on each'
    record.add_argument("--prompts", required=True, action=InputFile, metavar="FILE", help=text)
    record.add_argument("-o", "--out", required=True, action=OutputFile, metavar="FILE", help="trace to write (.npz)")
    record.add_argument(
        "--max-new-tokens", type=at_least_one, default=64, metavar="N", help="at most (default: %(default)s)"
    )
    text = (
        f"speculate up to K tokens, 1 to {MOST_DRAFTS}, from the text so far: verify steps are recorded, with which of "
    )
    text += "their drafts stayed (default: no drafts)"
    record.add_argument("--prompt-lookup", type=whole(1, MOST_DRAFTS), metavar="K", help=text)
    add_steer_option(record)
    text = (
        "write what each layer's router is given (float16, large), and the routers, for forecasters that look at them"
    )
    record.add_argument("--hidden", action="store_true", help=text)
    add_trust_option(record)


def record_trace(args: argparse.Namespace) -> None:
    """Write the trace, or what is left of it; one that is there whole stays."""
    from hetsched.loading.hub import shown_name
    from hetsched.steering.file import read_steering
    from hetsched.traces.content import model_digest
    from hetsched.traces.prompts import digest, read_prompts
    from hetsched.traces.writer import partial_folder, require_resumable

    from .attaching import DEMO, model_folder

    prompts = read_prompts(args.prompts)
    steering = read_steering(args.steer) if args.steer else None
    require_resumable(args.out)
    folder = model_folder(args.model, progress=not args.json)
    arguments = {
        "model": DEMO if args.model == DEMO else shown_name(folder),
        "content": model_digest(folder),
        "prompts": digest(prompts),
        "max_new_tokens": args.max_new_tokens,
        "prompt_lookup": args.prompt_lookup,
        **({"steering": steering.digest} if steering else {}),
        **({"hidden": True} if args.hidden else {}),
    }
    require_resumable(args.out, arguments)
    if args.out.exists() and not partial_folder(args.out).exists():
        if load_trace(args.out).meta.get("recorded") != arguments:
            raise InputError(f"{args.out} exists and was recorded otherwise; choose another --out, or delete it")
    else:
        _record_prompts(args, prompts, arguments, steering)


def _record_prompts(
    args: argparse.Namespace, prompts: list[str], arguments: dict[str, Any], steering: Steering | None
) -> None:
    from hetsched.integrations.recording import record
    from hetsched.integrations.steering import steered

    from .attaching import encode, load_model
    from .generating import only_numbers

    model, tokenizer = load_model(
        args.model,
        trust_remote_code=args.trust_remote_code,
        prompts=lambda tokenizer: [encode(tokenizer, prompt) for prompt in prompts],
    )
    generate: dict[str, Any] = {"max_new_tokens": args.max_new_tokens, "do_sample": False}
    generate["logits_processor"] = [only_numbers]
    if tokenizer.pad_token_id is None:
        generate["pad_token_id"] = tokenizer.eos_token_id
    if args.prompt_lookup:
        generate["prompt_lookup_num_tokens"] = args.prompt_lookup
    ids = [encode(tokenizer, prompt) for prompt in prompts]
    meta = {"model": arguments["model"], "source": "hetsched trace record"}
    with progress_bar("recording sequences") as show, steered(model, steering):
        record(
            model,
            ids,
            args.out,
            arguments,
            generate=generate,
            hidden=args.hidden,
            meta={**meta, **({"steered": steering.facts()} if steering else {})},
            progress=lambda done, tokens: show(done, len(ids)),
        )
