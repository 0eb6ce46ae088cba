"""`hetsched plan`: what a model takes of a machine's memory and how fast it will be, before anything is downloaded."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from hetsched.errors import InputError
from hetsched.files import user_path
from hetsched.geometry import MAX_LAYERS
from hetsched.memory.plan import USUAL_CONTEXT
from hetsched.report.documents import print_document

from .option_types import NotedOption, at_least_one, non_empty_text, refuse_given, share, whole
from .paths import InputFile, NameOrPath, OutputFile

if TYPE_CHECKING:
    from hetsched.machine.profile import HardwareProfile
    from hetsched.planning.model import PlannedModel
    from hetsched.planning.plan import Plan
    from hetsched.planning.question import Question

EXAMPLES = (
    "hetsched plan --model gpt-oss-120b --hardware rtx-3090 --context 16384",
    "hetsched plan --model Qwen/Qwen3-30B-A3B --hardware rtx-4060-laptop-8gb --format q4_k_m",
    "hetsched plan --model gpt-oss-120b --hardware rtx-3090 --engine llama.cpp --n-cpu-moe 25 --json",
    "hetsched plan --model gpt-oss-20b --hardware rtx-3060-12gb --trace gpt-oss-20b.npz -o hot.csv",
)
ENGINES = ("hetsched", "llama.cpp")
LAYOUTS = ("routing", "counts")
USUAL_PROMPT, MOST_PROMPT = 512, 1 << 24
MOST_DRAFTS = 63  # as traces/speculative.py
USUAL_ACCEPTANCE = 0.7
MTP, PROMPT_LOOKUP = "mtp", "prompt-lookup"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    text = "what to expect of a model on a machine: memory, strategy, speeds as a range, and what would change them"
    parser = subparsers.add_parser("plan", help=text, description=text)
    text = "gallery name, config.json, model folder, GGUF file or hub id; no weights are read"
    parser.add_argument("--model", required=True, action=NameOrPath, metavar="NAME", help=text)
    text = "machine, by name or profile file: see 'hetsched profiles list' (default: this machine)"
    parser.add_argument("--hardware", type=non_empty_text, metavar="NAME|FILE", help=text)
    text = "GPU memory for experts: 8GiB, 512MB, or 25%% of them (default: what the rest of the model leaves)"
    parser.add_argument("--gpu-memory", type=non_empty_text, metavar="SIZE", help=text)
    text = f"tokens that the KV cache has room for (default: {USUAL_CONTEXT}, or what the model was made for)"
    parser.add_argument("--context", type=at_least_one, metavar="N", help=text)
    text = "sequences at once (default: %(default)s)"
    parser.add_argument("--batch", type=at_least_one, default=1, metavar="N", help=text)
    text = f"tokens of the prompt whose speed is estimated (default: {USUAL_PROMPT}, or the context)"
    parser.add_argument("--prompt-tokens", type=whole(1, MOST_PROMPT), metavar="N", help=text)
    text = "experts stored as: a format, or a kind of file such as q4_k_m (default: as published)"
    parser.add_argument("--format", type=non_empty_text, metavar="NAME", help=text)
    text = "whose way of working is estimated (default: %(default)s)"
    parser.add_argument("--engine", type=str.lower, choices=ENGINES, default="hetsched", help=text)
    text = "llama.cpp: experts of the first N layers on the CPU (default: as few as fit)"
    parser.add_argument("--n-cpu-moe", type=whole(0, MAX_LAYERS), metavar="N", help=text)
    _add_trace_options(parser)
    _add_draft_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def _add_trace_options(parser: argparse.ArgumentParser) -> None:
    text = "recorded routing (.npz): its held-out half is replayed, which settles how skewed routing is"
    parser.add_argument("--trace", action=InputFile, metavar="FILE", help=text)
    text = "replay only the first N tokens of that half (default: all)"
    parser.add_argument("--max-tokens", type=at_least_one, action=NotedOption, metavar="N", help=text)
    text = "with --trace: write its routing as CSV, from which forks of llama.cpp take their hot experts"
    parser.add_argument("-o", "--out", action=OutputFile, metavar="FILE", help=text)
    text = "of that CSV: position,layer,expert,... as --moe-cache-profile reads it, or layer,expert,count "
    text += "(default: %(default)s)"
    parser.add_argument("--layout", type=str.lower, action=NotedOption, choices=LAYOUTS, default="routing", help=text)


def _add_draft_options(parser: argparse.ArgumentParser) -> None:
    text = f"verify steps of K drafts, 1 to {MOST_DRAFTS}, where that pays (default: none)"
    parser.add_argument("--speculate", type=whole(1, MOST_DRAFTS), metavar="K", help=text)
    text = "who drafts: prompt-lookup, which takes nothing, mtp, the model's own head, or a model by its bytes and "
    text += "seconds a token (default: %(default)s)"
    parser.add_argument(
        "--draft",
        type=non_empty_text,
        action=NotedOption,
        default=PROMPT_LOOKUP,
        metavar="NAME[=BYTES[,SECONDS]]",
        help=text,
    )
    text = "probability that a draft is right if those before it were (default: %(default)s)"
    parser.add_argument(
        "--acceptance", type=share, action=NotedOption, default=USUAL_ACCEPTANCE, metavar="P", help=text
    )


def run(args: argparse.Namespace) -> int:
    """Plan and report: 0, also where it does not fit, which `fits` says."""
    _refuse_idle_options(args)
    from hetsched.planning.document import document_of, notes_of
    from hetsched.planning.plan import planned

    question = _question(args)
    plan = planned(question) if args.trace is None else _traced(args, question)
    if args.json:
        print_document(document_of(plan))
    else:
        from hetsched.report.plan_view import plan_view
        from hetsched.report.tables import console

        console().print(plan_view(plan, notes_of(plan)), crop=False)
    return 0


def _refuse_idle_options(args: argparse.Namespace) -> None:
    """Raise InputError for options that nothing would follow."""
    if args.trace is None:
        refuse_given(args, ("max_tokens", "layout"), "belongs to --trace")
        if args.out is not None:
            raise InputError("-o writes the hot experts of a trace; add --trace FILE, or drop it")
    elif args.engine != "hetsched" and args.out is None:
        raise InputError(
            "whole layers are on the CPU whatever routing is; drop --trace, or add -o FILE for its hot experts"
        )
    if args.trace is not None and args.out is None:
        refuse_given(args, ("layout",), "is of the file that -o names")
    if args.speculate is None:
        refuse_given(args, ("draft", "acceptance"), "belongs to --speculate K")


def _question(args: argparse.Namespace) -> Question:
    from hetsched.estimate import engine_named
    from hetsched.machine.hardware import resolve_hardware
    from hetsched.memory.plan import context_or_usual
    from hetsched.planning.question import Question

    model = asked_model(args.model)
    engine = engine_named(args.engine)
    profile = resolve_hardware(args.hardware, model.subject(engine, args.format).geometry)
    context = context_or_usual(args.context, model.shape)
    return Question(
        model=model,
        profile=profile,
        engine=engine,
        format=args.format,
        context_asked=args.context,
        batch=args.batch,
        prompt=min(USUAL_PROMPT, context) if args.prompt_tokens is None else args.prompt_tokens,
        gpu_memory=args.gpu_memory,
        n_cpu_moe=args.n_cpu_moe,
        **_drafting(args, profile),
    )


def _drafting(args: argparse.Namespace, profile: HardwareProfile) -> dict[str, Any]:
    """What a question knows of drafts."""
    if args.speculate is None:
        return {}
    from hetsched.estimate import Speculation

    own = args.draft.lower() == MTP
    speculation = Speculation(args.speculate, args.acceptance, 1 if own else 0)
    if own:
        return {"speculation": speculation}
    if args.draft.lower() == PROMPT_LOOKUP:
        return {"speculation": speculation, "draft_s": 0.0}
    from hetsched.replay.drafts import Draft

    draft = Draft.parsed(args.draft)
    return {"speculation": speculation, "draft_bytes": draft.gpu_bytes, "draft_s": draft.seconds(profile)}


def _traced(args: argparse.Namespace, question: Question) -> Plan:
    """The plan by a trace, whose hot experts are written where that is asked for."""
    from hetsched.planning.hot import check_trace, write_hot
    from hetsched.planning.plan import planned
    from hetsched.traces.trace import load_trace

    from .replaying import libraries_silenced, replay_bar

    trace = load_trace(args.trace)
    check_trace(trace, question.model, str(args.trace))
    routing = str(args.out) if args.out is not None and args.layout == "routing" else "FILE"
    with libraries_silenced(), replay_bar("replaying") as progress:
        plan = planned(question, args.trace, args.max_tokens, progress, routing)
    if args.out is not None:
        count = write_hot(args.out, trace, question.model, args.layout)
        print(f"hetsched: wrote {args.out}, {count:,} lines", file=sys.stderr)
    return plan


def asked_model(name: str) -> PlannedModel:
    """A gallery's model, a config.json or a folder with one, a GGUF file's header, or an id's config on the hub.

    Raises InputError for what is none.
    """
    from hetsched.geometry import layers_with_experts
    from hetsched.loading.hub import HUB_GGUF, HUB_ID, config_place
    from hetsched.machine import gallery
    from hetsched.planning.model import PlannedModel

    from .shapes import is_gguf_name

    is_here = gallery.has_model(name) or user_path(name).exists()
    if not is_here and (HUB_GGUF.fullmatch(name) or (HUB_ID.fullmatch(name) and not is_gguf_name(name))):
        place = str(config_place(name))
    else:
        place = name
    if is_gguf_name(place):
        from hetsched.loading.gguf_geometry import model_of_gguf

        geometry, config, rest_bytes = model_of_gguf(place)
        return PlannedModel.of(geometry, config, layers_with_experts(config), rest_bytes)
    config = gallery.model_config(place)
    geometry = gallery.model(place)
    return PlannedModel.of(geometry, config, layers_with_experts(config))
