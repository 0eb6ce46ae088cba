"""Engine: what an engine adds to a machine's own figures, as stated constants, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ..errors import UnknownNameError
from ..machine.profile import HardwareProfile, Processor
from .times import Times


@dataclass(frozen=True)
class Engine:
    """An engine's own times. Where `dense_kernels` is None, launches take what the machine's profile says.

    `host_layer_s`: its code for a layer of a step, while nothing computes. `step_s`: the same once a step.
    `dense_kernels`, `expert_kernels`: launches a layer, of `kernel_s` each, or `graph_kernel_s` where the whole step is
    one CUDA graph because nothing is left to the CPU; `hip_kernel_s` on AMD's GPUs. `cpu_layer_s`, `cpu_expert_s`: once
    for a layer with experts on the CPU, and for each of those. `handover_s`: besides the link's latencies, what passing
    a layer to the CPU and back takes. `overlaps`: whether a layer's experts on GPU and CPU run at the same time.
    `misses`: "cpu", or the faster of that and a copy. `prompts`: what a prompt's tokens do about experts that are not
    there, from `stream_from` tokens on: copy all ("stream"), the faster of all copied and all on the CPU, or both at
    once. `stream_share`: of the link's rate that such copies reach; `copy_s`: of each, besides the link's latency.
    `gpu_flops`, `cpu_flops`: factors on the profile's rates. `reasons`: of constants by their names.
    """

    name: str
    host_layer_s: float = 0.0
    step_s: float = 0.0
    dense_kernels: int | None = None
    expert_kernels: int = 0
    kernel_s: float = 0.0
    graph_kernel_s: float = 0.0
    hip_kernel_s: float = 0.0
    cpu_layer_s: float = 0.0
    cpu_expert_s: float = 0.0
    handover_s: float = 0.0
    overlaps: bool = False
    misses: Literal["cpu", "fetch or cpu"] = "cpu"
    prompts: Literal["stream", "faster", "both"] = "stream"
    stream_from: int = 32
    stream_share: float = 1.0
    copy_s: float = 0.0
    gpu_flops: float = 1.0
    cpu_flops: float = 1.0
    reasons: Mapping[str, str] = field(default_factory=dict)

    def on(self, profile: HardwareProfile, graph: bool = False) -> HardwareProfile:
        """The machine as this engine meets it: with the engine's own launches, wake-ups and rates.

        `graph`: the whole step is one CUDA graph. Tables measured with hetsched's kernels are left out for another.
        """
        if self.dense_kernels is None:
            return profile
        kernel_s = self._launch_s(profile, graph)
        gpu = profile.gpu and replace(
            _without_tables(profile.gpu),
            call_s=self.expert_kernels * kernel_s,
            per_expert_s=0.0,
            dense_call_s=self.dense_kernels * kernel_s,
            flops_per_s=profile.gpu.flops_per_s * self.gpu_flops,
        )
        cpu = replace(
            _without_tables(profile.cpu),
            call_s=self.cpu_layer_s,
            per_expert_s=self.cpu_expert_s,
            dense_call_s=self.dense_kernels * self.cpu_expert_s,
            flops_per_s=profile.cpu.flops_per_s * self.cpu_flops,
        )
        return replace(profile, gpu=gpu, cpu=cpu)

    def layer(self, times: Times) -> Times:
        """Parts of a layer's experts as they run: it ends with its longest lane where lanes overlap, else after all."""
        if not self.overlaps:
            return times
        longest_s = max(times.gpu_experts_s, times.link_s, times.cpu_experts_s + times.round_trips_s)
        return replace(times, hidden_s=sum(times.parts.values()) - longest_s)

    def _launch_s(self, profile: HardwareProfile, graph: bool) -> float:
        if self.hip_kernel_s and profile.gpu and "AMD" in profile.gpu.name:
            return self.hip_kernel_s
        return self.graph_kernel_s if graph else self.kernel_s

    def layer_host_s(self, profile: HardwareProfile) -> float:
        """Its own code for a layer: as measured on this machine where the profile says so, for hetsched alone."""
        measured = profile.host if self.dense_kernels is None else None
        return measured.layer_s if measured else self.host_layer_s


def _without_tables(device: Processor) -> Processor:
    return replace(device, tables=(), dense=())


HETSCHED = Engine(
    "hetsched",
    host_layer_s=250e-6,
    overlaps=True,
    misses="fetch or cpu",
    prompts="both",
    stream_from=1,
    reasons={
        "host_layer_s": "the engine's Python for a layer as emulated time counts it; measured profiles have their own",
        "overlaps": "GPU, link and CPU are lanes of one layer; it ends with the last",
        "misses": "each missing expert is copied or computed on the CPU, whichever ends the layer sooner",
    },
)
LLAMA_CPP = Engine(
    "llama.cpp",
    step_s=300e-6,
    dense_kernels=25,
    expert_kernels=6,
    kernel_s=4.5e-6,
    graph_kernel_s=1.5e-6,
    hip_kernel_s=8e-6,
    cpu_layer_s=20e-6,
    cpu_expert_s=1e-6,
    handover_s=30e-6,
    prompts="stream",
    stream_from=32,
    stream_share=0.9,
    copy_s=10e-6,
    cpu_flops=2.0,
    reasons={
        "step_s": "building or checking the graph, sampling over the vocabulary, one synchronisation",
        "dense_kernels": "of a layer's graph after fusion: norms, projections with their activations quantised, "
        "rotation, cache writes, attention, router, shared expert",
        "expert_kernels": "three grouped products, each with its activations quantised",
        "kernel_s": "a launch from start to start where the graph is cut at each layer that the CPU has a part of",
        "graph_kernel_s": "the same inside one CUDA graph",
        "hip_kernel_s": "HIP, without graphs: 77.6 tokens/s of Qwen3.5-35B-A3B in 2 bits, all of it on an RX 6900 XT, "
        "are 12.9 ms for 1.2 GB, which leaves about 8 µs for each of 31 launches a layer (AlexsJones/llmfit, 474)",
        "cpu_layer_s": "three products and an activation, each ended by a barrier of spinning threads",
        "cpu_expert_s": "an expert's rows shared out among threads that are awake",
        "handover_s": "two synchronisations of the stream, of about 15 µs",
        "overlaps": "parts of a cut graph run one after another, so one lane waits for the other",
        "prompts": "from 32 tokens on, the weights of host experts are copied to the GPU before each product",
        "stream_share": "each matrix is a copy of its own, submitted when the one before it was used",
        "copy_s": "a synchronisation before each copy, since the routers' choice is read first",
        "gpu_flops": "int8 products have twice the 16-bit rate, but an expert's few rows are padded to whole tiles",
        "cpu_flops": "int8 dot products, at least twice as many a cycle as fp32",
    },
)
KTRANSFORMERS = Engine(
    "ktransformers",
    step_s=300e-6,
    dense_kernels=25,
    expert_kernels=6,
    kernel_s=2e-6,
    graph_kernel_s=2e-6,
    cpu_layer_s=30e-6,
    cpu_expert_s=1e-6,
    handover_s=40e-6,
    overlaps=True,
    prompts="faster",
    stream_from=1,
    stream_share=0.9,
    reasons={
        "step_s": "scheduling, sampling and detokenising of its server",
        "dense_kernels": "as llama.cpp's layer",
        "kernel_s": "inside a CUDA graph, which goes on around the CPU's part by host callbacks",
        "cpu_layer_s": "work queue and barriers of its own pool of threads",
        "handover_s": "two host callbacks in the stream",
        "overlaps": "the GPU's experts run while the CPU's do",
        "prompts": "long prompts are computed layer by layer on the GPU, short ones where the experts are",
    },
)
ENGINES = {engine.name: engine for engine in (HETSCHED, LLAMA_CPP, KTRANSFORMERS)}


def engine_named(name: str) -> Engine:
    """The engine of that name, whatever its case. Raises UnknownNameError, which lists those known."""
    found = ENGINES.get(name.lower())
    if found is None:
        raise UnknownNameError("engine", name, ENGINES)
    return found
