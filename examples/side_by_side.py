"""hetsched beside transformers and llama.cpp, whole models on this machine's CPU: one table of tokens a second.

    python examples/side_by_side.py [--layers 4] [--formats bf16,q8_0,q4_0,mxfp4] [--repeats 5] [--json]

Makes a random Qwen3-MoE of a few layers in Qwen3-30B-A3B's geometry, writes it as safetensors and as GGUF files from
the same numbers, and measures decoding and prefill by everything that is installed, in turns, each in a process of its
own: hetsched, transformers' eager and grouped_mm (bf16 alone), and llama.cpp where `pip install xllamacpp` was run.
Four layers take 15 GB of disk in --folder, which is kept where it was given, and as much memory at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from hetsched.bench.model_files import ModelSizes, made

PROMPT = 16  # tokens in the cache before decoding


class Contestant(NamedTuple):
    """One way to run the model in one format. `lossless`: computes with the file's weights and exact activations."""

    format: str
    name: str
    lossless: bool


class Row(NamedTuple):
    """Tokens a second, median and range over the repetitions; how often faster than llama.cpp, where that ran."""

    format: str
    name: str
    lossless: bool
    decode: float
    decode_range: tuple[float, float]
    prefill: float
    prefill_range: tuple[float, float]
    decode_of_llama_cpp: float | None = None
    prefill_of_llama_cpp: float | None = None


def main() -> int:
    """Make the model, run everything, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--ffn", type=int, default=768, help="of an expert")
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--formats", default="bf16,q8_0,q4_0,mxfp4", help="some of bf16, q8_0, q4_0, mxfp4")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="decoded in a repetition")
    parser.add_argument("--prefill", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--folder", type=Path, help="where the models are, or are to be written")
    parser.add_argument("--only", default="", help="names that must occur in a contestant's, with commas")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", nargs=2, metavar=("NAME", "PATH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args.work[0], args.work[1], args.vocabulary)
    sizes = ModelSizes(args.layers, args.experts, args.hidden, args.ffn, args.vocabulary)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        rows = []
        for format_ in args.formats.split(","):
            note(f"making the model in {format_}, unless it is there")
            made(folder, format_, sizes)
            named = [each for each in contestants(format_) if any(n in each.name for n in args.only.split(","))]
            rows += measured(named, folder, args)
    show(rows, args.json)
    return 0


def contestants(format_: str) -> list[Contestant]:
    """What can run a format here."""
    found = [Contestant(format_, "hetsched", True)]
    if format_ == "bf16":
        found += [Contestant(format_, f"transformers {name}", True) for name in ("eager", "grouped_mm")]
    else:
        found.append(Contestant(format_, "hetsched int8 activations", False))
    if find_spec("xllamacpp"):
        found.append(Contestant(format_, "llama.cpp", format_ == "bf16"))
    return found


# ---- a contestant, in a process of its own ----


def work(name: str, path: str, vocabulary: int) -> int:
    """Load a model, say so, then answer each line "decode N" or "prefill N" with the tokens a second."""
    answers, sys.stdout = sys.stdout, sys.stderr
    run = llama_cpp(path) if name == "llama.cpp" else torch_model(name, path)
    ids = [i * 37 % vocabulary for i in range(4096)]
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        what, tokens = line.split()
        prompt = ids[: int(tokens) if what == "prefill" else PROMPT]
        print(run(what, prompt, int(tokens)), file=answers, flush=True)
    return 0


def torch_model(name: str, path: str) -> Any:
    """A transformers model, attached or not; greedy decoding in a plain loop."""
    import torch

    if name.startswith("hetsched"):
        import hetsched

        options: dict[str, Any] = {"cpu_kernel": "packed-int8"} if "int8" in name else {}
        model, _handle = hetsched.load(path, hardware="cpu", progress=False, **options)
    else:
        from transformers import AutoModelForCausalLM

        implementation = name.split()[1]
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.bfloat16, experts_implementation=implementation
        ).eval()

    def run(what: str, prompt: list[int], tokens: int) -> float:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            start = perf_counter()
            out = model(ids, use_cache=True, logits_to_keep=1)
            if what == "prefill":
                return tokens / (perf_counter() - start)
            start = perf_counter()
            for _ in range(tokens):
                ids = out.logits[:, -1:].argmax(-1)
                out = model(ids, past_key_values=out.past_key_values, use_cache=True)
            return tokens / (perf_counter() - start)

    return run


def llama_cpp(path: str) -> Any:
    """llama.cpp by its own clock, on as many threads as torch would take."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 1024, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads()
    params.cache_ram_mib = 0
    server = xllamacpp.Server(params)

    def run(what: str, prompt: list[int], tokens: int) -> float:
        asked = {
            "prompt": prompt,
            "n_predict": 1 if what == "prefill" else tokens + 1,
            "ignore_eos": True,
            "cache_prompt": False,
            "temperature": 0,
        }
        timings = server.handle_completions(asked)["timings"]
        return float(timings["prompt_per_second" if what == "prefill" else "predicted_per_second"])

    return run


def threads() -> int:
    """As torch counts them."""
    return int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0))


# ---- measuring and reporting ----


def measured(chosen: list[Contestant], folder: Path, args: argparse.Namespace) -> list[Row]:
    """All contestants of one format in turns; one that cannot run is told on standard error and left out."""
    workers = [(each, started(each, folder, args.vocabulary)) for each in chosen]
    workers = [(each, worker) for each, worker in workers if ask(worker) == "ready"]
    taken: dict[tuple[str, str], list[float]] = {}
    for repeat in range(args.repeats + 1):  # the first warms up
        for each, worker in workers[repeat % len(workers) :] + workers[: repeat % len(workers)]:
            for what, tokens in (("decode", args.tokens), ("prefill", args.prefill)):
                taken.setdefault((each.name, what), []).append(float(ask(worker, f"{what} {tokens}") or "nan"))
    for _, worker in workers:
        worker.communicate()
    rows = []
    for each, _ in workers:
        decode, prefill = (taken[each.name, what][1:] for what in ("decode", "prefill"))
        spreads = [(min(seconds), max(seconds)) for seconds in (decode, prefill)]
        rows.append(Row(*each, statistics.median(decode), spreads[0], statistics.median(prefill), spreads[1]))
    other = next((row for row in rows if row.name == "llama.cpp"), None)
    if other is None:
        return rows
    return [
        row._replace(decode_of_llama_cpp=row.decode / other.decode, prefill_of_llama_cpp=row.prefill / other.prefill)
        for row in rows
    ]


def started(each: Contestant, folder: Path, vocabulary: int) -> subprocess.Popen[str]:
    """A process that loads the contestant's model."""
    note(f"loading {each.format}: {each.name}")
    path = folder / ("safetensors" if each.format == "bf16" and each.name != "llama.cpp" else f"{each.format}.gguf")
    quiet = None if os.environ.get("VERBOSE") else subprocess.DEVNULL
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    argv = [sys.executable, __file__, "--vocabulary", str(vocabulary), "--work", each.name, str(path)]
    return subprocess.Popen(argv, stderr=quiet if each.name == "llama.cpp" else None, **pipes)


def ask(worker: subprocess.Popen[str], line: str = "") -> str:
    """What a worker answers; "" where it has died."""
    assert worker.stdin
    assert worker.stdout
    if line:
        print(line, file=worker.stdin, flush=True)
    return worker.stdout.readline().strip()


def show(rows: list[Row], as_json: bool) -> None:
    """The table, or one JSON object."""
    if as_json:
        where = {"threads": threads(), "cores": os.cpu_count()}
        print(json.dumps({"schema": "hetsched-side-by-side/1", **where, "rows": [row._asdict() for row in rows]}))
        return
    print(f"tokens/s, median (least to most), {threads()} threads; x: times llama.cpp's")
    print(f"{'format':7} {'contestant':26} {'lossless':9} {'decode':>22} {'x':>5} {'prefill':>24} {'x':>5}")
    for row in rows:
        decode = f"{row.decode:.1f} ({row.decode_range[0]:.1f} to {row.decode_range[1]:.1f})"
        prefill = f"{row.prefill:.0f} ({row.prefill_range[0]:.0f} to {row.prefill_range[1]:.0f})"
        ratios = [f"{r:.2f}" if r else "" for r in (row.decode_of_llama_cpp, row.prefill_of_llama_cpp)]
        lossless = "yes" if row.lossless else "no"
        print(f"{row.format:7} {row.name:26} {lossless:9} {decode:>22} {ratios[0]:>5} {prefill:>24} {ratios[1]:>5}")


def note(text: str) -> None:
    """Say what takes so long."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
