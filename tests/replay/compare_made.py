"""A small model, traces for it, and strategies that misbehave, for tests of comparisons. No weights are needed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from hetsched.geometry import MoEGeometry, from_config
from hetsched.policies.static import CpuOnly, StaticFrequency
from hetsched.policy import Traits
from hetsched.traces.trace import RoutingTrace, save_trace
from hetsched.types import Phase

LAYERS, EXPERTS, TOP_K = 3, 8, 2
CONFIG = {
    "model_type": "qwen2_moe",
    "hidden_size": 2048,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 16,
    "num_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "moe_intermediate_size": 768,
    "vocab_size": 1000,
}
MACHINE = "rtx-4060-laptop-8gb"


def geometry() -> MoEGeometry:
    return from_config(CONFIG, name="small")


def model_file(folder: Path) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


def trace_of(experts_TLK: np.ndarray, sequences: int) -> RoutingTrace:
    """A decode trace with its tokens shared out evenly among sequences."""
    tokens = len(experts_TLK)
    sequence_T = (np.arange(tokens) * sequences // tokens).astype(np.int32)
    phase_T = np.full(tokens, Phase.DECODE, np.uint8)
    return RoutingTrace(experts_TLK.astype(np.int16), sequence_T, phase_T, EXPERTS, meta={"model": "small"})


def random_trace(seed: int = 0, tokens: int = 120, sequences: int = 6) -> RoutingTrace:
    """Skewed routing: low expert ids are likelier."""
    rng = np.random.default_rng(seed)
    weight_E = 1.0 / np.arange(1, EXPERTS + 1)
    drawn = [rng.choice(EXPERTS, TOP_K, replace=False, p=weight_E / weight_E.sum()) for _ in range(tokens * LAYERS)]
    return trace_of(np.array(drawn).reshape(tokens, LAYERS, TOP_K), sequences)


def trace_file(folder: Path) -> Path:
    path = folder / "trace.npz"
    save_trace(path, random_trace())
    return path


class Raises(CpuOnly):
    """A policy with a fault."""

    name = "raises"

    def plan(self, demand, view):
        raise ZeroDivisionError("a fault of its own")


class Dies(CpuOnly):
    """A policy that takes its process with it."""

    name = "dies"

    def plan(self, demand, view):
        os._exit(7)


class Seer(StaticFrequency):
    """Clairvoyant: places what will be demanded most, and cannot do without."""

    name = "seer"
    traits = Traits(family="oracles", clairvoyant=True)

    def start(self, machine):
        assert machine.future is not None
        assert machine.future.step_T is not None
        frequency_LE = machine.future.demand_LE(slice(None)).astype(float)
        return super().start(machine.__class__(**{**machine.__dict__, "frequency_LE": frequency_LE}))


class Blind(CpuOnly):
    """Fails where it is told the future."""

    name = "blind"

    def start(self, machine):
        assert machine.future is None
        return super().start(machine)
