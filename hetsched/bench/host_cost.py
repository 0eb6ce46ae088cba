"""What the engine's own Python takes for a layer on this machine, measured on a tiny model: the host of a profile.

Shapes: C layers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import torch

from hetsched.accelerators.emulated.device import EmulatedAccelerator
from hetsched.machine import gallery
from hetsched.machine.host_cost import KnownHost
from hetsched.machine.profile import HostCost
from hetsched.types import Outcome, Phase

from .hollow import timing_only, tiny_model

MACHINE = "rtx-4060-laptop-8gb"
POLICY = "on-demand-lru"  # has copies to start, as most do, and asks no solver
LAYERS, EXPERTS, TOP_K = 4, 32, 8
STEPS, STEPS_BEFORE = 48, 8
HOW = f"processor time in {LAYERS} layers of {TOP_K} active experts of {EXPERTS}, {POLICY} on an emulated GPU"


def measure_host() -> KnownHost:
    """Decode a tiny random model on an emulated machine; takes a second or two, and starting transformers."""
    from hetsched.integrations.transformers import attach

    model = tiny_model(LAYERS, seed=0, num_experts=EXPERTS, top_k=TOP_K)
    accelerator = EmulatedAccelerator(gallery.machine(MACHINE), time_scale=1.0, timing_only=True)
    machine: dict[str, Any] = {"hardware": MACHINE, "gpu_memory": "25%", "policy": POLICY, "accelerator": accelerator}
    try:
        with timing_only(), attach(model, **machine) as handle:
            host_s_C = _decoded(model, handle.scheduler)
    finally:
        accelerator.close()
    low_s, middle_s, high_s = np.percentile(host_s_C[STEPS_BEFORE * LAYERS :], (10, 50, 90)).tolist()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""  # a busy machine's caches are cold
    return KnownHost(HostCost(middle_s, low_s, high_s), HOW + load, date.today().isoformat())


def _decoded(model: Any, scheduler: Any) -> list[float]:
    """Seconds that each layer of decode steps was charged for the host."""
    host_s_C: list[float] = []
    observe: Callable[[Outcome], None] = scheduler.observe

    def observed(outcome: Outcome) -> None:
        observe(outcome)
        if outcome.plan.demand.phase is Phase.DECODE:
            host_s_C.append(outcome.host_s)

    scheduler.observe = observed
    torch.manual_seed(0)
    ids = torch.randint(3, model.config.vocab_size, (1, 1))
    many = {"max_new_tokens": STEPS + STEPS_BEFORE, "min_new_tokens": STEPS + STEPS_BEFORE}
    model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, pad_token_id=0, **many)
    return host_s_C
