"""The clairvoyant bound on recorded routing and gallery machines."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from hetsched.bound.clairvoyant import all_resident_bound, clairvoyant_bound
from hetsched.cost.model import CostModel
from hetsched.machine import gallery
from hetsched.traces.trace import load_trace
from tests.replay.flat_cost import steps_of
from tests.replay.test_bound_below import lru_s, static_s

TRACES = Path(os.environ.get("HETSCHED_TRACES", Path(__file__).parents[2].parent / "shared" / "traces"))


class Priced:
    """A gallery machine's costs under the names that the reference policies read."""

    def __init__(self, cost: CostModel) -> None:
        self.each_cpu_s = cost.each_cpu_s
        self.dense, self.gpu = cost.dense_s(1), cost.each_gpu_s([1])[0]
        self.copy, self.roundtrip, self.gpu_call = cost.copy_s(), cost.cpu_start_s(1), cost.gpu_call_s()


@pytest.mark.parametrize(
    ("name", "model"), [("gpt-oss-20b.decode", "gpt-oss-20b"), ("deepseek-v2-lite.esft", "deepseek-v2-lite")]
)
def test_it_lies_between_the_roof_and_policies(name, model):
    """A tenth of the experts on a laptop: above the roof, below static frequency and an on-demand cache."""
    path = TRACES / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no {name}.npz in {TRACES}; set HETSCHED_TRACES to the folder of recorded traces")
    trace = load_trace(path)
    begin, end = trace.num_tokens // 2, trace.num_tokens // 2 + 16
    steps = steps_of(trace)._replace(begin_S=np.arange(begin, end), end_S=np.arange(begin, end) + 1)
    cost = CostModel(gallery.machine("rtx-4060-laptop-8gb"), gallery.model(model))
    slots = trace.num_layers * trace.num_experts // 10
    bound = clairvoyant_bound(trace, steps, cost, slots)
    assert bound.window_s[0] > 1.02 * all_resident_bound(trace, steps, cost).window_s[0]
    for policy in (static_s, lru_s):
        assert bound.window_s[0] < sum(policy(trace, steps, Priced(cost), slots))
