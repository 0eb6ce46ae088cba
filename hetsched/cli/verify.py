"""`hetsched verify`: are the tokens the same, scheduled and not? With --perplexity: what do lossy copies cost?"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from typing import Any

from hetsched.errors import InputError
from hetsched.report.documents import print_document

from .attaching import (
    add_machine_options,
    add_precision_option,
    add_steer_option,
    add_trust_option,
    check_prompt,
    encode,
    load_model,
    lossy_label,
    machine_options,
    options_of,
)
from .generating import GREEDY, only_numbers
from .option_types import NotedOption, at_least_one, is_given, names_list, non_empty_text, refuse_given

SCHEMA = "hetsched-verify/1"
PROMPTS = ("Write a short story about a lighthouse.", "How do I sort a list in Python?", "What is the moon made of?")
DEFAULT_HARDWARE = "rtx-4060-laptop-8gb"
EXAMPLES: tuple[str, ...] = (
    "hetsched verify --model demo --max-new-tokens 16",
    "hetsched verify --model demo --gpu-memory 10%,50% --json",
    "hetsched verify --model demo --gpu-precision int8 --gpu-memory 25% --perplexity 512",
)


@dataclass
class Comparison:
    """Scheduled against eager, over every token compared."""

    tokens_compared: int = 0
    tokens_equal: int = 0
    max_abs_logit_diff: float = 0.0

    def add(self, reference: Any, scheduled: Any) -> None:
        """Add one generation (results of generate with output_logits)."""
        for expected, found in zip(reference.logits, scheduled.logits, strict=False):
            self._see(expected, found)
        new = [result.sequences[0, -len(result.logits) :].tolist() for result in (reference, scheduled)]
        self.tokens_compared += max(len(tokens) for tokens in new)
        self.tokens_equal += sum(a == b for a, b in zip(*new, strict=False))

    def add_steps(self, reference: Any, logits_S: list[Any]) -> None:
        """Add the logits [1, V] of each step behind the reference's own tokens; equal: the same is the likeliest."""
        for expected, found in zip(reference.logits, logits_S, strict=True):
            self._see(expected, found)
            self.tokens_compared += 1
            self.tokens_equal += int(expected.argmax()) == int(found.argmax())

    def _see(self, expected: Any, found: Any) -> None:
        off = float((expected - found.to(expected.device)).abs().max())
        self.max_abs_logit_diff = max(self.max_abs_logit_diff, off)

    @property
    def identical(self) -> bool:
        """Whether every token is the same, and there was one."""
        return 0 < self.tokens_compared == self.tokens_equal


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser("verify", help="compare scheduled with reference tokens", description=__doc__)
    parser.add_argument(
        "--model",
        type=non_empty_text,
        required=True,
        metavar="PATH",
        help="checkpoint folder, GGUF file, hub id, or 'demo'",
    )
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated (default: three of its own)")
    text = "at most (default: %(default)s)"
    parser.add_argument("--max-new-tokens", type=at_least_one, action=NotedOption, default=64, metavar="N", help=text)
    add_machine_options(parser, hardware=DEFAULT_HARDWARE, gpu_memory="10%,25%,50%", cpu_kernel="eager", time_scale=1.0)
    add_precision_option(parser)
    add_steer_option(parser)
    add_trust_option(parser)
    parser.add_argument(
        "--perplexity",
        type=at_least_one,
        nargs="?",
        const=512,
        metavar="TOKENS",
        help="with --gpu-precision: perplexity on so many tokens, exact and lossy (without a number: %(const)s)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Greedy tokens and logits against transformers' eager experts; 0 only when all tokens are identical.

    A kernel that adds in another order may choose another token and go on from there: with one each step is compared
    behind the reference's own tokens.
    """
    require_useful(args)
    if args.perplexity is not None:
        from . import verify_perplexity

        return verify_perplexity.run(args)
    if args.gpu_precision is not None:
        raise InputError(
            f"--gpu-precision {args.gpu_precision} is lossy, so tokens may differ; add --perplexity, or drop it"
        )
    asked = args.prompt or PROMPTS
    for prompt in asked:
        check_prompt(prompt)
    options = options_of(args)
    model, tokenizer = load_model(
        args.model,
        trust_remote_code=args.trust_remote_code,
        options=options,
        prompts=lambda tokenizer: [encode(tokenizer, prompt) for prompt in asked],
    )
    from hetsched import attach

    prompts = [encode(tokenizer, prompt) for prompt in asked]
    model.set_experts_implementation("eager")
    references = [_reference(model, ids, args.max_new_tokens) for ids in prompts]
    comparison, stats = Comparison(), dict[str, Any]()
    for given in options:
        with attach(model, **given) as handle:
            for number, (ids, reference) in enumerate(zip(prompts, references, strict=True), 1):
                print(f"gpu memory {given['gpu_memory'] or 'none'}: prompt {number} of {len(prompts)}", file=sys.stderr)
                if str(args.cpu_kernel).lower() == "eager":
                    comparison.add(reference, _generate(model, ids, args.max_new_tokens))
                else:
                    comparison.add_steps(reference, _steps(model, ids, reference))
            stats = handle.stats()
    _show(comparison, stats, args.json)
    return 0 if comparison.identical else 1


def _show(comparison: Comparison, stats: dict[str, Any], as_json: bool) -> None:
    bit_identical = comparison.identical and comparison.max_abs_logit_diff == 0.0
    kernel = {key: stats[key] for key in ("cpu_kernel", "lossless")}
    if as_json:
        print_document({"schema": SCHEMA, **asdict(comparison), "bit_identical": bit_identical, **kernel})
        return
    verdict = "bit-identical" if bit_identical else "identical tokens" if comparison.identical else "DIFFERENT"
    share = comparison.tokens_equal / max(comparison.tokens_compared, 1)
    by = "" if stats["cpu_kernel"] == "eager" else f" ({share:.1%}; CPU kernel {stats['cpu_kernel']})"
    print(
        f"{lossy_label(stats)}{verdict}: {comparison.tokens_equal} of {comparison.tokens_compared} tokens equal{by}, "
        f"largest logit difference {comparison.max_abs_logit_diff:.3g}"
    )


def require_useful(args: argparse.Namespace) -> None:
    """Raise InputError for options that would be ignored, and for a budget that is named twice."""
    machine_options(args)
    if args.steer is not None:
        raise InputError(f"--steer {args.steer} changes what the routers choose, which is never lossless; drop it")
    if args.perplexity is not None:
        refuse_given(args, ("max_new_tokens",), "belongs to the comparison of tokens, and --perplexity generates none")
    elif str(args.hardware).lower() == "cpu":
        refuse_given(args, ("gpu_memory",), "is memory of a GPU, and --hardware cpu has none")
    if is_given(args, "gpu_memory"):
        try:
            names_list(args.gpu_memory)
        except argparse.ArgumentTypeError as error:
            raise InputError(f"--gpu-memory: {error}") from None


def _reference(model: Any, ids: Any, max_new_tokens: int) -> Any:
    """What eager experts make. Raises InputError where that is no number, to which nothing can be compared."""
    made = _generate(model, ids, max_new_tokens)
    for logits_BV in made.logits:
        only_numbers(ids, logits_BV)
    return made


def _generate(model: Any, ids: Any, max_new_tokens: int) -> Any:
    import torch

    ids = ids.to(model.device)
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        **GREEDY,
        num_return_sequences=1,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )


def _steps(model: Any, ids: Any, reference: Any) -> list[Any]:
    """Logits [1, V] of each new token of the reference, the model having read those before it one a step."""
    import torch

    new = reference.sequences[:, -len(reference.logits) :].to(model.device)
    cache, found = None, []
    with torch.inference_mode():
        for step in (ids.to(model.device), *new.split(1, dim=1)[:-1]):
            out = model(step, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits[:, -1].float())
    return found
