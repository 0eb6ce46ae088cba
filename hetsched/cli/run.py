"""`hetsched run`: generate text, or chat, with a model's experts under the scheduler."""

from __future__ import annotations

import argparse
from typing import Any

from hetsched.errors import InputError
from hetsched.report.documents import print_document
from hetsched.report.tables import say

from .attaching import (
    add_context_options,
    add_machine_options,
    add_precision_option,
    add_steer_option,
    add_trust_option,
    attached,
    context_for,
    context_options,
    load_model,
    lossy_label,
    machine_options,
)
from .generating import Generated, generate
from .option_types import at_least_one, non_empty_text
from .paths import OutputFile
from .prompting import check_prompt, encode, require_template
from .sampling import add_sampling_options, refuse_idle_sampling, sampling_of, seeded
from .speculating import add_speculation_options, check_draft, refuse_idle_draft, speculating

SCHEMA = "hetsched-run/1"
TOKENS, CHAT_TOKENS = 64, 512
EXAMPLES: tuple[str, ...] = (
    'hetsched run --model demo --prompt "What is a map?" --hardware rtx-4060-laptop-8gb --gpu-memory 25%',
    'hetsched run --model demo --prompt "What is a map?" --greedy --hardware cpu --json',
    "hetsched run --model demo --chat --seed 7",
    'hetsched run --model demo --prompt "What is a map?" --hardware rtx-4060-laptop-8gb --log run.jsonl',
    'hetsched run --model demo --prompt "What is a map?" --speculate auto --draft prompt-lookup',
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser("run", help="generate text under the scheduler", description=__doc__)
    parser.add_argument(
        "--model",
        type=non_empty_text,
        required=True,
        metavar="PATH",
        help="checkpoint folder, GGUF file, hub id, or 'demo'",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="text to go on with; with --chat the first question")
    text = "ask line by line, on a terminal or through a pipe; Ctrl-C ends an answer, /quit or Ctrl-D the chat"
    parser.add_argument("--chat", action="store_true", help=text)
    text = "what the model is told before all else, where it has a chat template (default: what that says)"
    parser.add_argument("--system", metavar="TEXT", help=text)
    text = f"of an answer, at most (default: {TOKENS}, with --chat {CHAT_TOKENS})"
    parser.add_argument("--max-new-tokens", type=at_least_one, metavar="N", help=text)
    add_sampling_options(parser)
    add_machine_options(parser)
    add_context_options(parser)
    add_precision_option(parser)
    add_steer_option(parser)
    add_speculation_options(parser)
    add_trust_option(parser)
    text = "begin with what earlier runs have learned, if FILE is there, and write it with what this one adds"
    parser.add_argument("--learned", action=OutputFile, metavar="FILE", help=text)
    text = "write what was decided and what it took, layer by layer: for hetsched explain, timeline and report"
    parser.add_argument("--log", action=OutputFile, metavar="FILE", help=text)
    parser.add_argument("--live", action="store_true", help="a screen of the run: text, speed, lanes, slots, guard")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Generate as generation_config.json says; text streams to standard output, or one JSON document with --json."""
    from hetsched.report.run_view import memory_line

    _check(args)
    most = args.max_new_tokens or (CHAT_TOKENS if args.chat else TOKENS)
    options = {**machine_options(args), "learned": args.learned, "log": args.log, **context_options(args)}
    model, tokenizer = load_model(
        args.model,
        trust_remote_code=args.trust_remote_code,
        options=[options],
        prompts=lambda tokenizer: _prompts(args, tokenizer),
    )
    sampling = sampling_of(args, model.generation_config)
    ids = None
    if not args.chat:
        ids = encode(tokenizer, args.prompt, args.system)
        if args.context is None:
            options["context"] = context_for(int(ids.shape[1]) + most)
    with attached(model, options) as handle:
        if not args.json:
            say(f"{lossy_label(handle.stats())}{memory_line(handle)}")
        with speculating(args, handle, tokenizer) as speculation, seeded(sampling, model):
            if ids is None:
                made = _chat(args, handle, model, tokenizer, most, sampling.settings)
            elif args.live:
                from .live import generate_live, watched

                made = generate_live(
                    watched(args, handle, speculation, most), model, tokenizer, ids, most, **sampling.settings
                )
            else:
                made = generate(model, tokenizer, ids, most, stream=not args.json, **sampling.settings)
        stats = {**handle.stats(), "speculation": speculation and speculation.stats()}
        stored = {"format": handle.geometry.dtype, "weights_bytes": handle.engine.store.num_bytes}
    wall = made.wall_figures(stats, options)
    if args.json and ids is not None:
        document = run_document(made, {**wall, **stored, "seed": sampling.seed}, int(ids.shape[1]), stats)
        print_document(document)
    else:
        _show(made, wall, stats, most)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for options that make no sense together, before anything is loaded."""
    if args.prompt is None and not args.chat:
        raise InputError("--prompt is missing: give text to go on with, or --chat")
    if args.chat and args.json:
        raise InputError("--chat streams many answers and --json is one document: drop one of the two")
    if args.live and (args.chat or args.json):
        other = "--chat asks and answers line by line" if args.chat else "--json is one document"
        raise InputError(f"--live is a screen of one text and {other}: drop one of the two")
    if args.prompt is not None:
        check_prompt(args.prompt)
    refuse_idle_sampling(args)
    refuse_idle_draft(args)


def _prompts(args: argparse.Namespace, tokenizer: Any) -> list[Any]:
    """Token ids that say whether tokenizer and chat template are of use.

    Raises InputError where they are not, or the draft model is none, before any weight of the model is read.
    """
    check_draft(args, tokenizer)
    if args.chat:
        require_template(tokenizer, "--chat")
    return [encode(tokenizer, args.prompt or "?", args.system)]


def _chat(
    args: argparse.Namespace, handle: Any, model: Any, tokenizer: Any, most: int, settings: dict[str, Any]
) -> Generated:
    """A whole chat. Who speculates looks after the cache in ways of its own, so it begins anew with each answer."""
    from .chatting import chat
    from .conversation import Conversation

    conversation = Conversation(tokenizer, args.system, context=handle.plan.context, room=most)
    return chat(model, tokenizer, conversation, args.prompt, remember=args.speculate == "off", **settings)


def _show(made: Generated, wall: dict[str, Any], stats: dict[str, Any], most: int) -> None:
    """Say on standard error what the run came to."""
    from hetsched.report.predictions_view import predictions_line
    from hetsched.report.run_view import faults_line, speculation_line, stats_line, stop_line, wall_line

    lines = [stats_line(stats), speculation_line(stats["speculation"]), wall_line(made.tokens, wall)]
    for line in filter(None, [*lines, predictions_line(stats["predictions"])]):
        say(f"{lossy_label(stats)}{line}")
    for line in filter(None, [faults_line(stats), stop_line(made.stopped_by, most)]):
        say(line)


def run_document(made: Generated, told: dict[str, Any], prompt_tokens: int, stats: dict[str, Any]) -> dict[str, Any]:
    """The verb's JSON document; `tokens_per_s` is the lanes' own, emulated or measured, of decoding alone.

    With speculation it counts the tokens of the text, and the seconds of drafting. `told`: of the clock on the wall,
    the seed (None where nothing was drawn), and the experts' format and bytes in host memory.
    """
    speculation = stats.get("speculation")
    return {
        "schema": SCHEMA,
        "text": made.text,
        "tokens": made.tokens,
        "prompt_tokens": prompt_tokens,
        "tokens_per_s": (speculation or stats)["tokens_per_s"],
        **told,
        "hardware": stats["hardware"],
        "emulated": stats["emulated"],
        "lossless": stats["lossless"],
        "gpu_precision": stats["gpu_precision"],
        "steered": stats["steered"],
        "speculation": speculation,
        "gpu_expert_bytes": stats["gpu_expert_bytes"],
        "stats": stats,
    }
