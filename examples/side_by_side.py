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

PROMPT = 16  # tokens in the cache before decoding
DISTINCT = 4  # experts of a layer that differ; the others are copies, read from memory of their own
DENSE = {"mxfp4": "q8_0"}  # what llama.cpp's own MXFP4 files have outside of the experts


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
        return work(*args.work, args.vocabulary)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        rows = []
        for format_ in args.formats.split(","):
            made(folder, format_, args)
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


# ---- the model ----


def made(folder: Path, format_: str, args: argparse.Namespace) -> None:
    """Write the model in a format, unless it is there: bf16 as safetensors and GGUF, others as GGUF."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{format_}.gguf"
    if target.exists():
        return
    note(f"making {args.layers} layers in {format_}")
    model = random_model(args)
    if format_ == "bf16":
        model.save_pretrained(folder / "safetensors", max_shard_size="2GB")
    write_gguf(model, target, format_)


def random_model(args: argparse.Namespace) -> Any:
    """Qwen3-30B-A3B with fewer layers and a smaller vocabulary, bf16, always the same numbers."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden,
        intermediate_size=3 * args.hidden,
        moe_intermediate_size=args.ffn,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        num_key_value_heads=4,
        head_dim=128,
        num_experts=args.experts,
        num_experts_per_tok=8,
        norm_topk_prob=True,
        tie_word_embeddings=False,
        max_position_embeddings=4096,
        rope_theta=1e6,
    )
    with torch.device("meta"):
        model = Qwen3MoeForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu").eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
                continue
            few = parameter[:DISTINCT] if parameter.ndim == 3 else parameter
            few.copy_(torch.randn(few.shape, generator=random) * few.shape[-1] ** -0.5)
            for e in range(DISTINCT, len(parameter) if parameter.ndim == 3 else 0):
                parameter[e].copy_(parameter[e % DISTINCT])
    return model


def write_gguf(model: Any, target: Path, format_: str) -> None:
    """The model as llama.cpp reads it: matrices in a format, norms and routers in fp32."""
    import gguf
    import numpy as np
    import torch

    config, written = model.config, target.with_suffix(".part")
    writer = gguf.GGUFWriter(written, "qwen3moe")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1e6)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_vocab_size(config.vocab_size)
    known = [*(chr(c) for c in range(33, 127)), "ab"]
    tokens = known + [f"<{i}>" for i in range(config.vocab_size - len(known))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(len(tokens) - 1)

    def add(name: str, weight: Any, kind: str) -> None:
        if kind == "fp32":
            writer.add_tensor(name, weight.detach().float().numpy())
            return
        type_ = gguf.GGMLQuantizationType[kind.upper()]
        if kind == "bf16":
            writer.add_tensor(name, weight.detach().view(torch.uint8).numpy(), raw_dtype=type_)
            return
        few = weight.detach()[:DISTINCT] if weight.ndim == 3 else weight.detach()
        packed = gguf.quants.quantize(few.float().numpy(), type_)
        times = len(weight) // len(packed) if weight.ndim == 3 else 1
        writer.add_tensor(name, np.concatenate([packed] * times), raw_dtype=type_)

    dense = DENSE.get(format_, format_)
    add("token_embd.weight", model.model.embed_tokens.weight, dense)
    add("output.weight", model.lm_head.weight, dense)
    add("output_norm.weight", model.model.norm.weight, "fp32")
    for number, layer in enumerate(model.model.layers):
        attention, block = layer.self_attn, layer.mlp
        add(f"blk.{number}.attn_norm.weight", layer.input_layernorm.weight, "fp32")
        add(f"blk.{number}.ffn_norm.weight", layer.post_attention_layernorm.weight, "fp32")
        for stored, module in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("output", "o_proj")):
            add(f"blk.{number}.attn_{stored}.weight", getattr(attention, module).weight, dense)
        add(f"blk.{number}.attn_q_norm.weight", attention.q_norm.weight, "fp32")
        add(f"blk.{number}.attn_k_norm.weight", attention.k_norm.weight, "fp32")
        add(f"blk.{number}.ffn_gate_inp.weight", block.gate.weight, "fp32")
        gate, up = block.experts.gate_up_proj.chunk(2, dim=1)
        add(f"blk.{number}.ffn_gate_exps.weight", gate.contiguous(), format_)
        add(f"blk.{number}.ffn_up_exps.weight", up.contiguous(), format_)
        add(f"blk.{number}.ffn_down_exps.weight", block.experts.down_proj, format_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    written.rename(target)


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

        options = {"cpu_kernel": "packed-int8"} if "int8" in name else {}
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
