"""`hetsched bench`: how fast a model runs, what the engine itself costs, and what it survives; a flag a benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from hetsched.report.documents import print_document

from .attaching import load_model
from .bench_options import CPU, FAULTS, GUARD, LOG, MODEL, OVERHEAD, REPLAY, add_bench_options, only, settle
from .option_types import non_empty_text
from .parser import formerly
from .replaying import decision_seconds, replay_bar

EXAMPLES: tuple[str, ...] = (
    "hetsched bench --model demo -p 512 -n 128 -r 5",
    "hetsched bench --model demo --hardware rtx-4090 --strategies hetsched,static-frequency --markdown",
    "hetsched bench --engine-overhead --models gpt-oss-20b --plot overhead.svg",
    "hetsched bench --faults --steps 200",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    text = "measure a model's speed, the engine's own time beside the work it schedules, or what it survives"
    parser = subparsers.add_parser("bench", help=text, description=text)
    which = parser.add_mutually_exclusive_group(required=True)
    text = "a checkpoint (folder, GGUF file, hub id, or 'demo'): prefill and decoding, as llama-bench shows them"
    which.add_argument(MODEL, type=non_empty_text, metavar="PATH", help=text)
    for flag, (_, text) in BENCHMARKS.items():
        which.add_argument(flag, dest="benchmark", action="store_const", const=flag, default=MODEL, help=text)
    formerly(parser, "--overhead", OVERHEAD)
    add_bench_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the chosen benchmark. Raises InputError for an option that belongs to another one."""
    settle(args, args.benchmark)
    return _model(args) if args.benchmark == MODEL else BENCHMARKS[args.benchmark][0](args)


def _model(args: argparse.Namespace) -> int:
    hardware = only(args.hardware, "machine", "--hardware")
    alone = hardware.lower() == "cpu"
    options = {"hardware": hardware} if alone else {"hardware": hardware, "gpu_memory": args.gpu_memory}
    strategies = ["cpu"] if alone else args.strategies
    asked = [options if alone else {**options, "policy": strategy} for strategy in strategies]
    quiet = args.json or args.markdown
    model, _ = load_model(args.model, progress=not quiet, trust_remote_code=args.trust_remote_code, options=asked)
    from hetsched.bench.generation import ModelSettings, model_document
    from hetsched.report.bench_model_view import model_markdown, model_view

    settings = ModelSettings(strategies, args.prompt_tokens, args.tokens, args.repetitions, args.seed)
    with replay_bar("measuring") as progress:
        document = model_document(model, args.model, options, settings, progress)
    if args.markdown:
        print(model_markdown(document))
        return 0
    return _show(args, document, model_view)


def _overhead(args: argparse.Namespace) -> int:
    from hetsched.bench.overhead import Settings, overhead_document
    from hetsched.report.bench_plot import plot_overhead
    from hetsched.report.bench_view import overhead_view

    settings = Settings(
        args.models,
        args.hardware,
        args.gpu_memory,
        args.policy,
        args.tokens,
        args.layers,
        args.seed,
        args.demo_as,
        decision_seconds(args.decision),
        args.forecaster,
    )
    with replay_bar("measuring") as progress:
        document = overhead_document(settings, progress)
    if args.plot:
        plot_overhead(document, args.plot)
    return _show(args, document, overhead_view)


def _log(args: argparse.Namespace) -> int:
    from hetsched.bench.log_cost import log_cost_document
    from hetsched.report.bench_view import log_cost_view

    model, hardware = only(args.models, "model", "--models"), only(args.hardware, "machine", "--hardware")
    return _show(args, log_cost_document(model, hardware, args.tokens, args.layers, args.seed), log_cost_view)


def _replay(args: argparse.Namespace) -> int:
    from hetsched.bench.replay_speed import ReplaySettings, replay_document
    from hetsched.report.bench_view import replay_view

    hardware = only(args.hardware, "machine", "--hardware")
    settings = ReplaySettings(args.models, hardware, args.strategies, args.layer_steps, args.seed)
    with replay_bar("replaying") as progress:
        document = replay_document(settings, progress)
    return _show(args, document, replay_view)


def _guard(args: argparse.Namespace) -> int:
    from hetsched.bench.guard import GuardSettings, guard_document, missed
    from hetsched.report.guard_view import guard_view

    model, hardware = only(args.models, "model", "--models"), only(args.hardware, "machine", "--hardware")
    settings = GuardSettings(model, hardware, args.steps, args.seed, args.emulated)
    with replay_bar("replaying") as progress:
        document = guard_document(settings, progress)
    _show(args, document, lambda told: guard_view(told, missed))
    return int(any(map(missed, document["rows"])))


def _faults(args: argparse.Namespace) -> int:
    from hetsched.bench import faults

    return int(faults.run(args))


def _cpu(args: argparse.Namespace) -> int:
    with replay_bar("starting torch", by_itself=False) as progress:
        from hetsched.bench import cpu_only

        rows = cpu_only.all_rows(progress)
    return cpu_only.show(rows, args.json)


def _show(args: argparse.Namespace, document: dict[str, Any], view: Callable[[dict[str, Any]], Any]) -> int:
    from hetsched.report.tables import console

    if args.json:
        print_document(document)
    else:
        console().print(view(document))
    return 0


BENCHMARKS: dict[str, tuple[Callable[[argparse.Namespace], int], str]] = {
    OVERHEAD: (_overhead, "executed against predicted step time, and the engine's own time a layer"),
    LOG: (_log, "what a run log costs a layer, steps with and without it by lot"),
    FAULTS: (_faults, "inject faults and count what survives"),
    GUARD: (_guard, "hetsched against the best simple strategy under profiles that lie, hostile routing and drift"),
    REPLAY: (_replay, "layer-steps a second that strategies replay, on synthetic routing of a model's shape"),
    CPU: (_cpu, "without an accelerator: forward passes against transformers' eager and grouped_mm, side by side"),
}
