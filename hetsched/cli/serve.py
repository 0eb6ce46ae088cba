"""`hetsched serve`: answer OpenAI's protocol over HTTP, many requests in one batch, experts under the scheduler."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetsched.errors import InputError, MissingDependencyError
from hetsched.machine.sizes import parse_bytes
from hetsched.memory.plan import USUAL_CONTEXT

from .attaching import (
    add_machine_options,
    add_precision_option,
    add_steer_option,
    add_trust_option,
    attached,
    load_model,
    lossy_label,
    machine_options,
)
from .option_types import at_least_one, finite_float, non_empty_text, whole
from .paths import OutputFile
from .rendering import check_template
from .sampling import add_sampling_options, refuse_idle_sampling, sampling_of

if TYPE_CHECKING:
    from hetsched.serving.server import Server

EXAMPLES = (
    "hetsched serve --model demo --hardware rtx-4060-laptop-8gb --port 8000",
    "hetsched serve --model ~/models/Qwen3-30B-A3B --gpu-memory 8GiB --parallel 8 --context 8192",
)
KEY_VARIABLE = "HETSCHED_API_KEY"
LOOPBACK = ("127.", "::1", "localhost")
NEEDED = ("uvicorn", "prometheus_client")
MOST_CONCURRENT = 1024


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser("serve", help="answer OpenAI's protocol over HTTP", description=__doc__)
    text = "checkpoint folder, GGUF file, hub id, or 'demo'"
    parser.add_argument("--model", type=non_empty_text, required=True, metavar="PATH", help=text)
    text = "what clients call the model (default: the last part of --model)"
    parser.add_argument("--name", type=non_empty_text, metavar="NAME", help=text)
    _add_server_options(parser)
    add_sampling_options(parser)
    add_machine_options(parser)
    text = f"tokens of a prompt and its answer together, at most (default: {USUAL_CONTEXT}, or the model's longest)"
    parser.add_argument("--context", type=at_least_one, metavar="N", help=text)
    add_precision_option(parser)
    add_steer_option(parser)
    add_trust_option(parser)
    text = "begin with what earlier runs have learned, if FILE is there, and write it with what this one adds"
    parser.add_argument("--learned", action=OutputFile, metavar="FILE", help=text)
    parser.set_defaults(run=run)


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    text = "address to listen at (default: %(default)s, which only this machine reaches)"
    parser.add_argument("--host", type=non_empty_text, default="127.0.0.1", metavar="ADDRESS", help=text)
    text = "port to listen at; 0 for any free one (default: %(default)s)"
    parser.add_argument("--port", type=whole(0, 65535), default=8000, metavar="N", help=text)
    text = f"what clients must show; better given as {KEY_VARIABLE}, which 'ps' does not show (default: no key)"
    parser.add_argument("--api-key", type=non_empty_text, metavar="KEY", help=text)
    text = "requests answered at the same time; each has room for --context tokens (default: %(default)s)"
    parser.add_argument("--parallel", type=whole(1, MOST_CONCURRENT), default=4, metavar="N", help=text)
    text = "requests that may wait for their turn; more are told to come back (default: %(default)s)"
    parser.add_argument("--queue", type=whole(0, 1 << 20), default=64, metavar="N", help=text)
    text = "of an answer whose request does not say (default: %(default)s)"
    parser.add_argument("--max-new-tokens", type=at_least_one, default=512, metavar="N", help=text)
    text = "of a request's body, at most (default: %(default)s)"
    parser.add_argument("--max-body", type=non_empty_text, default="4MiB", metavar="SIZE", help=text)
    text = "seconds that requests under way have when the server is told to end (default: %(default)g)"
    parser.add_argument("--grace", type=finite_float(0, 3600), default=10.0, metavar="S", help=text)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; the port is taken before the model is loaded, and clients wait meanwhile."""
    refuse_idle_sampling(args)
    body_bytes, key = parse_bytes(args.max_body), _key(args)
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise MissingDependencyError(missing[0], "'hetsched serve'", "pip install 'hetsched[serve]'")
    from hetsched.serving.sockets import bound

    options = {**machine_options(args), "learned": args.learned, "context": args.context, "batch": args.parallel}
    with bound(args.host, args.port) as listening:
        model, tokenizer = load_model(args.model, trust_remote_code=args.trust_remote_code, options=[options])
        check_template(tokenizer)
        sampling = sampling_of(args, model.generation_config)
        with attached(model, options) as handle:
            from hetsched.serving.server import Terms, serve

            terms = Terms(
                name=args.name or Path(args.model).name,
                context=handle.plan.context,
                key=key,
                parallel=args.parallel,
                waiting=args.queue,
                most_tokens=args.max_new_tokens,
                settings=sampling.settings,
                seed=args.seed,
                body_bytes=body_bytes,
                grace_s=args.grace,
            )
            serve(handle, model, tokenizer, listening, terms, lambda server: _say(handle, terms, args, server))
    return 0


def _key(args: argparse.Namespace) -> str | None:
    """The key that clients must show; None for none. Raises InputError for one that no header can hold."""
    key: str | None = args.api_key or os.environ.get(KEY_VARIABLE) or None
    if key is not None and not (key.isascii() and key.isprintable() and key == key.strip()):
        raise InputError(f"the API key (--api-key or {KEY_VARIABLE}) is not printable ASCII; take another")
    return key


def _say(handle: Any, terms: Any, args: argparse.Namespace, server: Server) -> None:
    """Say on standard error what is served, and where."""
    from hetsched.report.run_view import memory_line

    print(f"{lossy_label(handle.stats())}{memory_line(handle)}", file=sys.stderr)
    if terms.key is None and not args.host.startswith(LOOPBACK):
        text = f"WARNING: whoever reaches {args.host} may use this server: give {KEY_VARIABLE} or --api-key"
        print(text, file=sys.stderr)
    room = f"{terms.parallel} requests of {terms.context} tokens at a time"
    print(f"serving {terms.name!r} at {server.address}/v1, {room}; Ctrl-C ends", file=sys.stderr, flush=True)
