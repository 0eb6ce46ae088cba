"""`hetsched model`: build the demo model, and measure how much text repeats itself."""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from hetsched.demo_model import DEFAULT_HEAL_STEPS, build_demo_model, demo_model_path
from hetsched.demo_model.packing import NAMES, container_of, pack_demo_model
from hetsched.errors import InputError
from hetsched.machine.sizes import show_bytes
from hetsched.report.documents import print_document

from .attaching import add_trust_option, encode, load_model
from .option_types import NotedOption, at_least_one, non_empty_text, refuse_given, whole
from .paths import NewFolder
from .sampling import add_sampling_options, refuse_idle_sampling, sampling_of, seeded

DENSE = "dense"
TEXT = """let a model write to six held-out prompts, without hetsched, as its generation_config.json says, and measure
how much it repeats itself: distinct-2, and the share of tokens inside a 4-gram that the text has more than once, both
averaged over the texts"""
EXAMPLES: tuple[str, ...] = (
    "hetsched model build --out moe-demo",
    "hetsched model build --out moe-demo-q4 --format q4_0 --gguf",
    "hetsched model text --model demo --greedy --max-new-tokens 60",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb with its own verbs."""
    parser = subparsers.add_parser("model", help="build the demo model, measure its text", description=__doc__)
    verbs = parser.add_subparsers(dest="model_verb", required=True, metavar="VERB")
    text = "make SmolLM2-135M-Instruct into a sparse Mixture-of-Experts checkpoint"
    build = verbs.add_parser("build", help=text, description=text)
    build.add_argument(
        "-o", "--out", action=NewFolder, required=True, metavar="DIR", help="folder to write; must be new or empty"
    )
    build.add_argument(
        "--heal-steps",
        type=whole(0),
        action=NotedOption,
        default=DEFAULT_HEAL_STEPS,
        metavar="N",
        help="steps of distillation (default: %(default)s)",
    )
    text = f"write the built demo model packed, without building it anew: {', '.join(NAMES)} (default: build it)"
    build.add_argument("--format", type=non_empty_text, metavar="NAME", help=text)
    text = "a GGUF file also of a format that both kinds have: bf16 (default: safetensors where they have it)"
    build.add_argument("--gguf", action="store_true", help=text)
    build.add_argument("--json", action="store_true", help="one JSON document on standard output")
    build.set_defaults(run=_build)
    measured = verbs.add_parser("text", help="how much a model's text repeats itself", description=TEXT)
    measured.add_argument(
        "--model",
        type=non_empty_text,
        default="demo",
        metavar="PATH",
        help="checkpoint folder, 'demo', or 'dense' for what demo was made of (default: %(default)s)",
    )
    measured.add_argument("--max-new-tokens", type=at_least_one, metavar="N", help="of each text (default: 120)")
    add_sampling_options(measured)
    add_trust_option(measured)
    measured.add_argument("--json", action="store_true", help="one JSON document on standard output")
    measured.set_defaults(run=_text)


def _build(args: argparse.Namespace) -> int:
    """Build, then print the perplexities beside the dense model's; or pack what is built."""
    if args.format is not None:
        return _pack(args)
    if args.gguf:
        raise InputError("--gguf says what --format is written as; name one, such as --format q4_0")
    report = build_demo_model(args.out, heal_steps=args.heal_steps)
    if args.json:
        print_document({"schema": "hetsched-model/1", "path": str(args.out), **report})
        return 0
    print(f"wrote {args.out}")
    for key, value in report.items():
        print(f"  {key.replace('_', ' ')}: {value:.2f}")
    return 0


def _pack(args: argparse.Namespace) -> int:
    """Write the demo model in another format."""
    refuse_given(args, ("heal_steps",), "is of a build, and --format takes the model that is built")
    name = args.format.lower()
    container_of(name, args.gguf)
    report = pack_demo_model(demo_model_path(), args.out, name, as_gguf=args.gguf)
    if args.json:
        print_document({"schema": "hetsched-model/1", "format": name, **report})
        return 0
    print(f"wrote {report['path']}, {show_bytes(report['bytes'])}")
    for each, num_bytes in report["bytes_by_format"].items():
        print(f"  {each}: {show_bytes(num_bytes)} of matrices")
    if len(report["bytes_by_format"]) > 1:
        print(f"  in another format than {name}: embeddings, and rows that are no whole number of its blocks")
    return 0


def _text(args: argparse.Namespace) -> int:
    """Write the texts and print the figures."""
    from hetsched.demo_model.repetition import TOKENS, distinct_share, held_out_prompts, repeated_share

    from .generating import generate

    refuse_idle_sampling(args)
    model, tokenizer = _model_to_measure(args)
    sampling = sampling_of(args, model.generation_config)
    rows: list[dict[str, Any]] = []
    with seeded(sampling, model):
        for prompt in held_out_prompts():
            ids = encode(tokenizer, prompt)
            made = generate(model, tokenizer, ids, args.max_new_tokens or TOKENS, stream=False, **sampling.settings)
            figures = {"distinct_2": distinct_share(made.new), "repeated_4gram_share": repeated_share(made.new)}
            rows.append({"prompt": prompt, "text": made.text, "tokens": made.tokens, **figures})
            if not args.json:
                print(f"> {prompt}\n{made.text}\n")
    means = {key: statistics.fmean(row[key] for row in rows) for key in ("distinct_2", "repeated_4gram_share")}
    penalty = sampling.settings.get("repetition_penalty", model.generation_config.repetition_penalty or 1.0)
    how = {"repetition_penalty": penalty, "seed": sampling.seed}
    if args.json:
        document = {"schema": "hetsched-model-text/1", "model": args.model, **how, **means, "rows": rows}
        print_document(document)
    else:
        drawn = "greedy" if sampling.seed is None else f"seed {sampling.seed}"
        print(
            f"{args.model}, {drawn}, repetition penalty {penalty:g}, {sum(row['tokens'] for row in rows)} tokens: "
            f"distinct-2 {means['distinct_2']:.3f}, {means['repeated_4gram_share']:.0%} of tokens in repeated 4-grams"
        )
    return 0


def _model_to_measure(args: argparse.Namespace) -> tuple[Any, Any]:
    """Model and tokenizer; the dense model writes by the settings of what was made of it."""
    if args.model != DENSE:
        return load_model(args.model, trust_remote_code=args.trust_remote_code)
    from hetsched.demo_model.dense import gguf_path, load_dense
    from hetsched.demo_model.generation import SETTINGS

    model, tokenizer = load_dense(gguf_path())
    model.generation_config.update(**SETTINGS)
    return model, tokenizer
