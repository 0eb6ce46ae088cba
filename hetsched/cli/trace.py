"""`hetsched trace`: look at, record, import, split, join, synthesise and speculate with routing traces."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetsched.errors import InputError
from hetsched.report.documents import print_document
from hetsched.report.steering_view import steered_words
from hetsched.report.tables import console
from hetsched.traces.trace import RoutingTrace, load_trace, report, save_trace

from .attaching import add_steer_option, add_trust_option
from .drafting import MOST_DRAFTS, acceptance_from, add_derivation_options
from .option_types import at_least_one, non_empty_text, share, whole
from .parser import Parser, formerly, last_value_first
from .paths import InputFile, NameOrPath, OutputFile, PlotFile
from .progress import progress_bar
from .trace_synth import add_synth_options, synth_params

if TYPE_CHECKING:
    from hetsched.steering.file import Steering
EXAMPLES: tuple[str, ...] = (
    "hetsched trace synth --layers 24 --experts 32 --top-k 4 --tokens 2000 --sequences 8 --out trace.npz",
    "hetsched trace info trace.npz --plot trace.svg",
    "hetsched trace record --model demo --prompts prompts.txt --out demo.npz",
    "hetsched trace import log.csv --experts 64 --out log.npz",
    "hetsched trace split trace.npz --at 0.5 --out fit.npz score.npz",
    "hetsched trace concat fit.npz score.npz --out both.npz",
    "hetsched trace speculate trace.npz --drafts 4 --acceptance 0.7 --out drafted.npz",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb with its own verbs."""
    text = "routing traces: look at, record, import, split, join, synthesise and speculate with them"
    parser = subparsers.add_parser("trace", help=text, description=text)
    verbs = parser.add_subparsers(dest="trace_verb", required=True, metavar="VERB")
    for add in (_add_info, _add_record, _add_import, _add_split, _add_concat, _add_synth, _add_speculate):
        add(verbs)


def run(args: argparse.Namespace) -> int:
    """Run the chosen verb; 0 done."""
    args.trace_run(args)
    return 0


def _verb(verbs: Any, name: str, action: Callable[[argparse.Namespace], None], text: str) -> Parser:
    parser: Parser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run, trace_run=action)
    return parser


def _add_info(verbs: Any) -> None:
    info = _verb(verbs, "info", _info, "what a trace holds: entropy, repeats, reuse distances, LRU and LFU hit rates")
    info.add_argument("file", action=InputFile, metavar="FILE")
    info.add_argument("--plot", action=PlotFile, metavar="FILE", help="draw the figures into FILE (.png, .svg or .pdf)")
    text = "tokens that stand for a longer trace (default: 100000)"
    info.add_argument("--sample-tokens", type=at_least_one, metavar="N", help=text)


def _add_record(verbs: Any) -> None:
    text = "record a model's routing while it generates; goes on where an interrupted run stopped"
    record = _verb(verbs, "record", _record, text)
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


def _add_import(verbs: Any) -> None:
    text = "make a trace from a JSONL or CSV log with a row for each token and layer"
    imported = _verb(verbs, "import", _import, text)
    imported.add_argument("file", action=InputFile, metavar="FILE")
    formerly(imported, "--num-experts", "--experts")
    imported.add_argument(
        "--experts", dest="num_experts", type=at_least_one, required=True, metavar="N", help="in each layer"
    )
    imported.add_argument("-o", "--out", required=True, action=OutputFile, metavar="FILE", help="trace to write (.npz)")
    imported.add_argument("--format", type=str.lower, choices=("jsonl", "csv"), help="(default: by the suffix)")
    text = (
        "the file's names for layer, token, experts and, where it has them, sequence, phase, weights; "
        "a star stands for numbers of several columns: experts=expert_*"
    )
    imported.add_argument("--columns", type=non_empty_text, metavar="layer=NAME,...", help=text)
    imported.add_argument("--model", type=non_empty_text, metavar="NAME", help="stored as meta.model")


def _add_split(verbs: Any) -> None:
    split = _verb(verbs, "split", _split, "cut a trace between sequences")
    split.reordered = lambda words: last_value_first(words, "--out", ("--at", "--sequences"))
    split.add_argument("file", action=InputFile, metavar="FILE")
    how = split.add_mutually_exclusive_group(required=True)
    how.add_argument("--at", type=share, metavar="SHARE", help="into the first share of the sequences and the rest")
    how.add_argument(
        "--sequences", type=non_empty_text, metavar="A:B", help="keep sequences A to B - 1, counted from 0"
    )
    text = "one file with --sequences, two with --at"
    split.add_argument("-o", "--out", required=True, action=OutputFile, nargs="+", metavar="FILE", help=text)


def _add_concat(verbs: Any) -> None:
    concat = _verb(verbs, "concat", _concat, "join traces of one model; sequences are numbered anew")
    concat.add_argument("files", action=InputFile, nargs="+", metavar="FILE")
    concat.add_argument("-o", "--out", required=True, action=OutputFile, metavar="FILE", help="trace to write (.npz)")


def _add_synth(verbs: Any) -> None:
    text = "make a trace with a stated skew, locality and drift, or with those of a real one"
    add_synth_options(_verb(verbs, "synth", _synth, text))


def _add_speculate(verbs: Any) -> None:
    text = "make verify steps from a decode trace: what a draft with a stated acceptance would have had verified"
    add_derivation_options(_verb(verbs, "speculate", _speculate, text))


def _info(args: argparse.Namespace) -> None:
    from hetsched.report.trace_plot import plot_trace
    from hetsched.report.trace_view import SCHEMA, trace_document, trace_view
    from hetsched.traces.summary import SAMPLE_TOKENS, summarise

    try:
        trace = load_trace(args.file)
    except InputError:
        problems = report(args.file)
        if args.json:
            print_document({"schema": SCHEMA, "file": args.file.name, "problems": problems})
        else:
            print("\n".join(problems))
        raise
    with progress_bar("counting") as show:
        summary = summarise(trace, args.sample_tokens or SAMPLE_TOKENS, show)
    if args.plot:
        plot_trace(args.file.stem, summary, args.plot)
    if args.json:
        print_document(trace_document(args.file.name, summary))
    else:
        console().print(trace_view(args.file.name, summary))


def _record(args: argparse.Namespace) -> None:
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
    _written(args, args.out)


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


def _import(args: argparse.Namespace) -> None:
    from hetsched.traces.from_rows import import_rows
    from hetsched.traces.rows import row_file

    meta = {"source": f"imported from {args.file.name}"} | ({"model": args.model} if args.model else {})
    source = row_file(args.file, args.format, args.columns or "")
    with progress_bar("reading") as show:
        size = args.file.stat().st_size if args.file.exists() else 1
        import_rows(source, args.num_experts, args.out, meta=meta, at_bytes=lambda done: show(done, size))
    _written(args, args.out)


def _split(args: argparse.Namespace) -> None:
    from hetsched.traces.split import sequence_starts, sequences, split

    if len(args.out) != (2 if args.at is not None else 1):
        raise InputError(f"--out has {len(args.out)} files; --at makes two, --sequences one")
    if len({os.path.realpath(path) for path in args.out}) < len(args.out):
        raise InputError(f"--out names {args.out[0]} twice, and one part would overwrite the other; name two files")
    trace = load_trace(args.file)
    parts: tuple[RoutingTrace, ...]
    if args.at is not None:
        parts = split(trace, args.at)
    else:
        first, colon, last = args.sequences.partition(":")
        if not colon or not all(
            part == "" or (part.isascii() and part.isdecimal() and len(part) < 12) for part in (first, last)
        ):
            raise InputError(
                f"--sequences {args.sequences!r:.60} is not understood; write A:B, for instance 0:10 or 10:"
            )
        count = len(sequence_starts(trace)) - 1
        parts = (sequences(trace, int(first or 0), int(last or count)),)
    for path, part in zip(args.out, parts, strict=True):
        save_trace(path, part)
    _written(args, *args.out)


def _concat(args: argparse.Namespace) -> None:
    from hetsched.traces.split import concat

    concat([load_trace(path) for path in args.files], args.out)
    _written(args, args.out)


def _synth(args: argparse.Namespace) -> None:
    from hetsched.traces.synth import synthesise

    params = synth_params(args)
    with progress_bar("drawing tokens") as show:
        synthesise(params, args.seed, args.out, show)
    _written(args, args.out, params={**params.as_dict(), "seed": args.seed})


def _speculate(args: argparse.Namespace) -> None:
    from hetsched.report.trace_view import speculation_words
    from hetsched.traces.speculative import speculate
    from hetsched.traces.verified import drafting

    trace = speculate(load_trace(args.file), args.drafts, acceptance_from(args))
    save_trace(args.out, trace)
    figures = drafting(trace)
    assert figures is not None
    _written(args, args.out, speculation=figures._asdict())
    if not args.json:
        print(speculation_words(figures, trace.meta))


def _written(args: argparse.Namespace, *paths: Path, **more: Any) -> None:
    """Say what was written, after checking it as a reader would."""
    from hetsched.traces.split import sequence_starts

    files = []
    for path in paths:
        trace = load_trace(path)
        files.append(
            {
                "file": str(path),
                "tokens": trace.num_tokens,
                "sequences": len(sequence_starts(trace)) - 1,
                "layers": trace.num_layers,
                "num_experts": trace.num_experts,
                "top_k": trace.top_k,
                "bytes": path.stat().st_size,
                "steered": trace.meta.get("steered"),
            }
        )
    if args.json:
        print_document({"schema": f"hetsched-trace-{args.trace_verb}/1", "files": files, **more})
        return
    for f in files:
        shape = f"{f['layers']} layers, {f['top_k']} of {f['num_experts']} experts"
        label = f"LOSSY, {words}: " if (words := steered_words(f["steered"])) else ""
        print(f"{label}{f['file']}: {f['tokens']:,} tokens in {f['sequences']:,} sequences, {shape}")
