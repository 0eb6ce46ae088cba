"""Hot experts of a recorded trace as forks of llama.cpp read them.

Two layouts. "routing": a line for each decoded token and layer, `position,layer,expert,expert,...`, as the tool
llama-moe-trace of thecodacus/llama.cpp writes it and its --moe-cache-profile reads it. "counts": `layer,expert,count`
under that heading, the most frequent of a layer first, as several others do. Layers are numbered as llama.cpp numbers
blocks, those without experts included.

Shapes: T tokens, L layers with experts, E experts, K top-k.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import replacing
from ..traces.trace import RoutingTrace
from ..types import Phase
from .model import PlannedModel


def check_trace(trace: RoutingTrace, model: PlannedModel, name: str) -> None:
    """Raise InputError for a trace of a model of another shape."""
    shape = model.published
    if (trace.num_layers, trace.num_experts) != (shape.num_layers, shape.num_experts):
        raise InputError(
            f"{name} has {trace.num_layers} layers of {trace.num_experts} experts, and {shape.name} "
            f"{shape.num_layers} of {shape.num_experts}; give a trace of this model"
        )


def write_hot(path: Path, trace: RoutingTrace, model: PlannedModel, layout: str) -> int:
    """Write the file; how many lines. Decoded tokens are counted, or all where none were decoded."""
    lines = _routing(trace, model.layers) if layout == "routing" else _counts(trace, model.layers)
    written = 0
    with replacing(path) as place, place.open("w", encoding="ascii", newline="\n") as file:
        for line in lines:
            file.write(f"{line}\n")
            written += 1
    return written


def _decoded(trace: RoutingTrace) -> np.ndarray:
    """Numbers of the tokens that count."""
    tokens_T: np.ndarray = np.flatnonzero(np.asarray(trace.phase_T) != Phase.PREFILL)
    return tokens_T if len(tokens_T) else np.arange(trace.num_tokens)


def _routing(trace: RoutingTrace, layers: tuple[int, ...]) -> Iterator[str]:
    for position, token in enumerate(_decoded(trace)):
        for layer, experts_K in zip(layers, trace.experts_TLK[token].tolist(), strict=True):
            yield ",".join(map(str, (position, layer, *experts_K)))


def _counts(trace: RoutingTrace, layers: tuple[int, ...]) -> Iterator[str]:
    yield "layer,expert,count"
    demand_LE = trace.demand_LE(_decoded(trace))
    for layer, demand_E in zip(layers, demand_LE, strict=True):
        for expert in np.argsort(-demand_E, kind="stable"):
            yield f"{layer},{expert},{demand_E[expert]}"
