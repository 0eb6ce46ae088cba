"""A scheduler that goes wrong, and is put right: python examples/guard_event.py [--tokens N]

The profile says that the link is ten times as fast as it is. hetsched alone fetches what it had better compute; under
guard a simple strategy decides while hetsched is measured to be worse than that would be. To show it, nothing is
learned of the true seconds here: with recalibration, as usual, the profile itself is put right within a few steps.
"""

import argparse
import logging

import numpy as np

import hetsched
from hetsched.machine import gallery
from hetsched.machine.drift import slowed
from hetsched.replay.simulator import ConstantClock, simulate
from hetsched.replay.steps import steps_of
from hetsched.scheduler import Scheduler
from hetsched.traces.synth import SynthParams, generate
from hetsched.traces.trace import RoutingTrace
from hetsched.types import Phase

MODEL = gallery.model("gpt-oss-20b")
TRUE = gallery.machine("rtx-4060-laptop-8gb")
BELIEVED = slowed(TRUE, link=0.1)  # a tenth of the seconds
KNOWN = 200  # tokens that placements are fitted on


def routing(tokens: int) -> RoutingTrace:
    """Synthetic routing of the model's shape, all of it decode."""
    shape = {"layers": MODEL.num_layers, "experts": MODEL.num_experts, "top_k": MODEL.top_k}
    params = SynthParams.uniform(**shape, tokens=tokens, sequences=1, skew=1.1, locality=0.25, drift=0.0)
    experts_TLK = np.concatenate([chunk_CLK for _, chunk_CLK in generate(params, 0)])
    return RoutingTrace(
        experts_TLK, np.zeros(tokens, np.int32), np.full(tokens, Phase.DECODE, np.uint8), params.experts
    )


def replayed(trace: RoutingTrace, policy: str, watch: bool = False) -> tuple[float, Scheduler]:
    """Simulated seconds on the true machine, of a scheduler that believes the other one."""
    scheduler = Scheduler(
        MODEL,
        BELIEVED,
        MODEL.total_expert_bytes // 4,
        policy=policy,
        frequency_LE=trace.demand_LE(slice(0, KNOWN)).astype(float),
        clock=ConstantClock(30e-6),
        recalibrate=False,
        watch=watch,
    )
    return float(simulate(trace, steps_of(trace), scheduler, true_hardware=TRUE).step_s_S.sum()), scheduler


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=500)
    trace = routing(parser.parse_args().tokens)
    print(f"hetsched {hetsched.__version__}, {BELIEVED.name} is believed and {TRUE.name} is true (simulated)")
    print(f"static-frequency: {replayed(trace, 'static-frequency')[0]:.2f} s")
    print(f"hetsched alone: {replayed(trace, 'hetsched')[0]:.2f} s")
    guarded_s, scheduler = replayed(trace, "hetsched", watch=True)
    print(f"hetsched under guard: {guarded_s:.2f} s, {sum(move.is_switch for move in scheduler.stats.moves)} switches")
    for move in scheduler.stats.moves:
        print(f"after step {move.step}: {move.left} -> {move.to} ({move.why})")
