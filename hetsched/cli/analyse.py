"""`hetsched analyse`: which experts tell two sets of prompts apart, and a steering file that forces them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetsched.errors import InputError
from hetsched.reading import refusing
from hetsched.report.documents import print_document
from hetsched.report.tables import console

from .attaching import DEMO, add_trust_option, load_model
from .option_types import at_least_one
from .paths import InputFile, NameOrPath, OutputFile, PlotFile
from .progress import progress_bar

if TYPE_CHECKING:
    from hetsched.integrations.activation_counts import Prompt
    from hetsched.report.steering_view import Analysis

TEXT = """how often tokens of two sets of prompts choose each expert, ranked by the difference; --out writes a steering
towards the first set: its experts are forced on and the second set's off. Prompts are read as they are, without chat
template"""
EXAMPLES: tuple[str, ...] = (
    "hetsched analyse experts --model demo --prompts-a a.txt --prompts-b b.txt",
    "hetsched analyse experts --model demo --prompts-a a.txt --prompts-b b.txt --out steer.yaml --plot steer.svg",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb with its own verb."""
    parser = subparsers.add_parser("analyse", help="which experts do what", description=__doc__)
    verbs = parser.add_subparsers(dest="analyse_verb", required=True, metavar="VERB")
    experts = verbs.add_parser("experts", help="experts that tell two sets of prompts apart", description=TEXT)
    text = "checkpoint folder, GGUF file, hub id, or 'demo'"
    experts.add_argument("--model", required=True, action=NameOrPath, metavar="PATH", help=text)
    for letter, which in (("a", "first"), ("b", "second")):
        text = f'the {which} set: one prompt a line, or .jsonl with "prompt" on each; two or more'
        experts.add_argument(f"--prompts-{letter}", required=True, action=InputFile, metavar="FILE", help=text)
    text = "experts to list and to force, the strongest (default: %(default)s)"
    experts.add_argument("--top", type=at_least_one, default=10, metavar="N", help=text)
    text = "steering file to write, for --steer (.json or .yaml)"
    experts.add_argument("-o", "--out", action=OutputFile, metavar="FILE", help=text)
    text = "draw the differences into FILE (.png, .svg or .pdf)"
    experts.add_argument("--plot", action=PlotFile, metavar="FILE", help=text)
    add_trust_option(experts)
    experts.add_argument("--json", action="store_true", help="one JSON document on standard output")
    experts.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read both sets through the model, rank, and write what was asked for."""
    from hetsched.report.steering_plot import plot_analysis
    from hetsched.report.steering_view import analysis_document, analysis_view
    from hetsched.steering.file import check_suffix, save_steering
    from hetsched.traces.prompts import digest, read_prompts

    if args.out:
        check_suffix(args.out)
    sets = [read_prompts(path) for path in (args.prompts_a, args.prompts_b)]
    for path, prompts in zip((args.prompts_a, args.prompts_b), sets, strict=True):
        if len(prompts) < 2:
            raise InputError(f"{path} has one prompt; the standard error is taken between prompts: write two or more")
    analysis = _analysis(args, sets)
    if args.out:
        if not analysis.steering.layers:
            raise InputError("no expert tells the two sets apart, so there is nothing to steer; give other prompts")
        about = {f"prompts_{letter}": digest(prompts) for letter, prompts in zip("ab", sets, strict=True)}
        save_steering(analysis.steering, args.out, **about)
    if args.plot:
        plot_analysis(analysis, args.plot)
    if args.json:
        print_document({**analysis_document(analysis), "written": str(args.out) if args.out else None})
        return 0
    console().print(analysis_view(analysis))
    if args.out:
        steering = analysis.steering
        forced = f"{steering.activated} experts on, {steering.deactivated} off"
        print(f"{args.out}: {forced} in {len(steering.layers)} layers; LOSSY wherever --steer takes it")
    return 0


def _analysis(args: argparse.Namespace, sets: list[list[str]]) -> Analysis:
    model, tokenizer = load_model(
        args.model,
        progress=not args.json,
        trust_remote_code=args.trust_remote_code,
        prompts=lambda tokenizer: [_encoded(tokenizer, prompt).ids_T for prompts in sets for prompt in prompts],
    )
    from hetsched.integrations.activation_counts import count_activations
    from hetsched.integrations.expert_modules import expert_modules
    from hetsched.integrations.model_shape import geometry_of, layers_of
    from hetsched.integrations.steering import routers_digest
    from hetsched.report.steering_view import Analysis
    from hetsched.steering.difference import difference
    from hetsched.steering.file import SteeredShape, Steering
    from hetsched.steering.strongest import strongest

    encoded = [[_encoded(tokenizer, prompt) for prompt in prompts] for prompts in sets]
    total = sum(map(len, encoded))
    with progress_bar("reading prompts") as show:
        a, top_k = count_activations(model, encoded[0], lambda done: show(done, total))
        b, _ = count_activations(model, encoded[1], lambda done: show(len(encoded[0]) + done, total))
    layers = layers_of(expert_modules(model))
    geometry = geometry_of([tied[0] for tied in layers], model.config)
    shape = SteeredShape(geometry.num_layers, geometry.num_experts, top_k, geometry.hidden)
    found = difference(a, b)
    name = DEMO if args.model.lower() == DEMO else Path(args.model).resolve().name
    steering = Steering(name, shape, strongest(found, args.top, top_k), routers_digest(model, layers))
    return Analysis((args.prompts_a.name, args.prompts_b.name), a, b, found, steering, args.top)


def _encoded(tokenizer: Any, prompt: str) -> Prompt:
    """A line's tokens as they are; what the tokenizer adds is read and not counted."""
    import numpy as np

    from hetsched.integrations.activation_counts import Prompt

    with refusing("the tokenizer makes no tokens of the prompt", "download its files again"):
        made = tokenizer(prompt, return_special_tokens_mask=True)
    counted_T = np.array(made["special_tokens_mask"]) == 0
    if not counted_T.any():
        raise InputError(f"the prompt {prompt!r:.60} has no tokens of its own; leave it out")
    return Prompt(made["input_ids"], counted_T)
