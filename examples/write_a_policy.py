"""A policy of your own beside the others, at equal bytes: python examples/write_a_policy.py [--trace FILE]"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from hetsched.policies.static import StaticFrequency
from hetsched.policy import Traits, View
from hetsched.replay import compare
from hetsched.residency import ABSENT, RESIDENT
from hetsched.traces.synth import SynthParams, synthesise
from hetsched.types import Demand, ExpertId, Fetch


class FetchLater(StaticFrequency):
    """Starts as its parent; while the lanes work, a missed expert replaces the layer's first idle one."""

    name = "fetch-later"
    traits = Traits(family="mine")

    def prefetch(self, demand: Demand, view: View) -> list[Fetch]:
        layer, states = demand.layer, view.residency.states(demand.layer)
        absent = [e for e in demand.active if states[e] == ABSENT]
        idle = [e for e in range(demand.num_experts) if states[e] == RESIDENT and e not in demand.active]
        swaps = [] if view.link.in_flight else list(zip(absent, idle, strict=False))[:1]
        return [Fetch(ExpertId(layer, e), ExpertId(layer, victim), True, "missed") for e, victim in swaps]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--trace", help="recorded on gpt-oss-20b (default: a synthetic one)")
    with TemporaryDirectory() as folder:
        trace = parser.parse_args().trace or Path(folder, "trace.npz")
        if isinstance(trace, Path):
            shape = {"layers": 24, "experts": 32, "top_k": 4, "tokens": 400, "sequences": 8}
            synthesise(SynthParams.uniform(**shape, skew=1.1, locality=0.25, drift=0.45), seed=0, path=trace)
        named = [FetchLater, "static-frequency", "cpu-only", "hetsched"]
        compare(trace, "gpt-oss-20b", hardware=["rtx-4060-laptop-8gb"], strategies=named, max_tokens=200).print()
