"""`hetsched bench`: what the engine itself costs, and what it survives; one function a benchmark, chosen by a flag."""

from __future__ import annotations

import argparse
import json

from ..errors import InputError
from ..geometry import MAX_LAYERS
from .attaching import load_model
from .option_types import at_least_one, names_list, non_empty_text, seed, whole
from .paths import PlotFile
from .replaying import decision_seconds, replay_bar

GUARDED = "gpt-oss-20b"  # unless --models says otherwise
REPLAYED = ("gpt-oss-20b", "qwen3-30b-a3b")  # unless --models says otherwise
EXAMPLES: tuple[str, ...] = (
    "hetsched bench --model demo -p 512 -n 128 -r 5",
    "hetsched bench --model demo --hardware rtx-4090 --strategies hetsched,static-frequency --json",
    "hetsched bench --overhead --models gpt-oss-20b --plot overhead.svg",
    "hetsched bench --faults --steps 200",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    text = "measure the engine itself: its own time beside the work it schedules, or what it survives"
    parser = subparsers.add_parser("bench", help=text, description=text)
    which = parser.add_mutually_exclusive_group(required=True)
    text = "executed against predicted step time, and the engine's own time a layer"
    which.add_argument("--overhead", dest="bench", action="store_const", const=_overhead, help=text)
    text = "inject faults and count what survives"
    which.add_argument("--faults", dest="bench", action="store_const", const=_faults, help=text)
    text = "layer-steps a second that strategies replay, on synthetic routing of a model's shape"
    which.add_argument("--replay", dest="bench", action="store_const", const=_replay, help=text)
    text = "hetsched against the best simple strategy under profiles that lie, hostile routing and drift"
    which.add_argument("--guard", dest="bench", action="store_const", const=_guard, help=text)
    text = "without an accelerator: forward passes against transformers' eager and grouped_mm, side by side"
    which.add_argument("--cpu", dest="bench", action="store_const", const=_cpu, help=text)
    text = "a checkpoint (folder, GGUF file, hub id, or 'demo'): prefill and decoding, as llama-bench shows them"
    which.add_argument("--model", type=non_empty_text, metavar="PATH", help=text)
    text = "with --model: tokens of the prompt (default: %(default)s)"
    parser.add_argument("-p", "--prompt-tokens", type=at_least_one, default=512, metavar="N", help=text)
    text = "with --model: times that everything is run, after one to warm up (default: %(default)s)"
    parser.add_argument("-r", "--repetitions", type=at_least_one, default=5, metavar="N", help=text)
    text = "with --faults: decode steps under all faults at random; with --guard: of each case (default: %(default)s)"
    parser.add_argument("--steps", type=at_least_one, default=500, metavar="N", help=text)
    text = "with --replay: layers of tokens in each replay (default: %(default)s)"
    parser.add_argument("--layer-steps", type=at_least_one, default=100_000, metavar="N", help=text)
    text = "with --replay and --model: which (default: %(default)s; on a CPU there is no choice)"
    strategies = "hetsched,static-frequency,on-demand-lru"
    parser.add_argument("--strategies", type=names_list, default=strategies, metavar="A,B,...", help=text)
    text = "with --guard: a subset of the cases in an engine on an emulated machine too"
    parser.add_argument("--emulated", action="store_true", help=text)
    title = "with --overhead; --models, --hardware (one) and --seed with --replay and --guard too; --hardware (one), "
    title += "--gpu-memory, --tokens and --seed with --model"
    add_overhead_options(parser.add_argument_group(title))
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run, usual=vars(parser.parse_args(["--overhead"])))


def add_overhead_options(group: argparse._ArgumentGroup) -> None:
    """--models, --hardware, --gpu-memory, --policy, --forecaster, --tokens, --layers, --demo-as, --seed, --plot."""
    text = "'demo', and gallery models of which a few layers are made without numbers (default: %(default)s; "
    text += f"with --guard {GUARDED}, with --replay {','.join(REPLAYED)})"
    group.add_argument("--models", type=names_list, default="demo,qwen3-30b-a3b", metavar="A,B,...", help=text)
    text = "machines to emulate (default: %(default)s)"
    group.add_argument("--hardware", type=names_list, default="rtx-4060-laptop-8gb", metavar="A,B,...", help=text)
    text = "GPU memory for experts: 8GiB, 512MB, or 25%% of them (default: %(default)s)"
    group.add_argument("--gpu-memory", type=non_empty_text, default="25%", metavar="SIZE", help=text)
    text = "strategy (default: %(default)s)"
    group.add_argument("--policy", type=non_empty_text, default="hetsched", metavar="NAME", help=text)
    text = "forecaster of a strategy that asks one (default: the strategy's own)"
    group.add_argument("--forecaster", type=non_empty_text, metavar="NAME", help=text)
    text = "decode steps to score in each of three passes, or tokens decoded (default: %(default)s)"
    group.add_argument("-n", "--tokens", type=at_least_one, default=64, metavar="N", help=text)
    text = "layers of models made without numbers (default: %(default)s)"
    group.add_argument("--layers", type=whole(1, MAX_LAYERS), default=4, metavar="N", help=text)
    text = "gallery model whose seconds the demo model's layers take; '' for its own (default: %(default)s)"
    group.add_argument("--demo-as", default="gpt-oss-20b", metavar="MODEL", help=text)
    text = "charge each decision what it takes here, or a constant, for reproducible steps (default: %(default)s)"
    group.add_argument("--decision", default="measured", metavar="measured|SECONDS", help=text)
    group.add_argument("--seed", type=seed, default=0, metavar="N", help="of what is drawn (default: %(default)s)")
    text = "draw where the engine's own time goes into FILE (.png, .svg or .pdf)"
    group.add_argument("--plot", action=PlotFile, metavar="FILE", help=text)


def run(args: argparse.Namespace) -> int:
    """Run the chosen benchmark. Raises InputError for an option that belongs to another one."""
    if args.model is not None:
        args.bench = _model
    mine = {
        _overhead: set(args.usual) - {"steps", "layer_steps", "strategies", "emulated", "prompt_tokens", "repetitions"},
        _model: {"model", "hardware", "gpu_memory", "strategies", "prompt_tokens", "tokens", "repetitions", "seed"},
        _replay: {"models", "hardware", "seed", "layer_steps", "strategies"},
        _faults: {"steps"},
        _guard: {"models", "hardware", "seed", "steps", "emulated"},
    }
    asked = {"bench", "json", "debug", "paths"} | mine.get(args.bench, set())
    for name, usual in args.usual.items():
        if name not in asked and getattr(args, name) != usual:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} belongs to another benchmark; drop it, or see hetsched bench --help")
    return int(args.bench(args))


def _overhead(args: argparse.Namespace) -> int:
    from hetsched.bench.overhead import Settings, overhead_document
    from hetsched.report.bench_plot import plot_overhead
    from hetsched.report.bench_view import overhead_view
    from hetsched.report.tables import console

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
    if args.json:
        print(json.dumps(document))
    else:
        console().print(overhead_view(document))
    return 0


def _replay(args: argparse.Namespace) -> int:
    from hetsched.bench.replay_speed import ReplaySettings, replay_document
    from hetsched.report.bench_view import replay_view
    from hetsched.report.tables import console

    if len(args.hardware) != 1:
        raise InputError(f"replays run on one machine, not on {len(args.hardware)}; name one with --hardware")
    models = REPLAYED if args.models == args.usual["models"] else args.models
    settings = ReplaySettings(models, args.hardware[0], args.strategies, args.layer_steps, args.seed)
    with replay_bar("replaying") as progress:
        document = replay_document(settings, progress)
    if args.json:
        print(json.dumps(document))
    else:
        console().print(replay_view(document))
    return 0


def _model(args: argparse.Namespace) -> int:
    if len(args.hardware) != 1:
        raise InputError(f"a model runs on one machine, not on {len(args.hardware)}; name one with --hardware")
    (hardware,) = args.hardware
    alone = hardware.lower() == "cpu"
    options = {"hardware": hardware} if alone else {"hardware": hardware, "gpu_memory": args.gpu_memory}
    strategies = ["cpu"] if alone else args.strategies
    asked = [options if alone else {**options, "policy": strategy} for strategy in strategies]
    model, _ = load_model(args.model, options=asked)
    from hetsched.bench.generation import ModelSettings, model_document
    from hetsched.report.bench_model_view import model_view
    from hetsched.report.tables import console

    settings = ModelSettings(strategies, args.prompt_tokens, args.tokens, args.repetitions, args.seed)
    with replay_bar("measuring") as progress:
        document = model_document(model, args.model, options, settings, progress)
    if args.json:
        print(json.dumps(document))
    else:
        console().print(model_view(document))
    return 0


def _guard(args: argparse.Namespace) -> int:
    from hetsched.bench.guard import GuardSettings, guard_document, missed
    from hetsched.report.guard_view import guard_view
    from hetsched.report.tables import console

    models = (GUARDED,) if args.models == args.usual["models"] else args.models
    for name, given in (("model", models), ("machine", args.hardware)):
        if len(given) != 1:
            raise InputError(f"the guard is tried with one {name}, not with {len(given)}; name one")
    settings = GuardSettings(models[0], args.hardware[0], args.steps, args.seed, args.emulated)
    with replay_bar("replaying") as progress:
        document = guard_document(settings, progress)
    if args.json:
        print(json.dumps(document))
    else:
        console().print(guard_view(document, missed))
    return int(any(map(missed, document["rows"])))


def _faults(args: argparse.Namespace) -> int:
    from hetsched.bench import faults

    return int(faults.run(args))


def _cpu(args: argparse.Namespace) -> int:
    with replay_bar("starting torch", by_itself=False) as progress:
        from hetsched.bench import cpu_only

        rows = cpu_only.all_rows(progress)
    return cpu_only.show(rows, args.json)
