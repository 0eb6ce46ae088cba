"""Cell: one strategy on one machine at one share of the experts, replayed.

Shapes: S steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..machine.profile import HardwareProfile
from ..scheduler import IDLE, Scheduler
from ..types import Demand, FloatArray, LinkState, Plan
from .fast import fast_replay
from .simulator import Progress, Replay, simulate
from .steps import Steps
from .strategies import Strategy, traits
from .study import Bench

PROBE_LAYERS = 256  # layer-steps whose median decision time is charged to a strategy that is replayed fast


@dataclass(frozen=True)
class Row:
    """What a strategy came to. Tokens are all tokens scored; those of `tokens_per_s` are decoded or verified ones.

    `hit_rate`: active experts wholly there when the router asked; `late_share`: those then on their way.
    `decision_s_per_token` and `host_s_per_token`, the engine's own, are on the critical path,
    `overlapped_s_per_token` beside the lanes. `efficiency`: seconds of
    the clairvoyant bound over this strategy's on the same steps, None without a bound. `rank` is among strategies with
    the same machine, fraction, clairvoyance and losslessness; the lanes' utilisation is busy seconds over all seconds.
    """

    hardware: str
    gpu_fraction: float
    gpu_bytes: int
    strategy: str
    step_s: float
    tokens_per_s: float
    hit_rate: float
    late_share: float
    bytes_per_token: float
    wasted_bytes_per_token: float
    stall_s_per_token: float
    decision_s_per_token: float
    efficiency: float | None
    lossless: bool
    rank: int = 0
    family: str = ""
    clairvoyant: bool = False
    stand_in: str = ""
    overlapped_s_per_token: float = 0.0
    host_s_per_token: float = 0.0
    gpu_utilisation: float = 0.0
    link_utilisation: float = 0.0
    cpu_utilisation: float = 0.0


class Cell(NamedTuple):
    """A task: one strategy on one machine at one fraction."""

    machine: HardwareProfile
    gpu_fraction: float
    strategy: Strategy

    def run(self, bench: Bench, progress: Progress | None = None) -> CellResult:
        """Replay the scored part of the study's trace."""
        return self.result(bench, self._replay(bench, progress))

    def result(self, bench: Bench, replayed: Replay) -> CellResult:
        """What a replay of this cell came to."""
        return CellResult(self._row(bench, replayed), replayed.step_s_S)

    def try_out(self, bench: Bench) -> float:
        """Median seconds of a decision in the first steps, by a scheduler of its own; whatever is compiled, is then."""
        steps = _first_steps(bench.steps, -(-PROBE_LAYERS // bench.study.geometry.num_layers))
        scheduler = bench.scheduler(self.machine, self.gpu_fraction, self.strategy.policy(), Probe)
        assert isinstance(scheduler, Probe)
        simulate(bench.scored, steps, scheduler)
        return float(np.median(scheduler.taken_s))

    def _replay(self, bench: Bench, progress: Progress | None) -> Replay:
        charge_s = bench.study.decision_s
        if charge_s is None:
            tried_s = self.try_out(bench)
            if self._fast(bench, _first_steps(bench.steps, 1), 0.0) is None:
                return self._simulated(bench, None, progress)
            charge_s = tried_s
        fast = self._fast(bench, bench.steps, charge_s, progress)
        return fast or self._simulated(bench, charge_s, progress)

    def _simulated(self, bench: Bench, decision_s: float | None, progress: Progress | None) -> Replay:
        host_s = bench.study.host_layer_s(self.machine)
        return simulate(bench.scored, bench.steps, self._scheduler(bench, decision_s), progress, host_s)

    def _fast(self, bench: Bench, steps: Steps, charge_s: float, progress: Progress | None = None) -> Replay | None:
        host_s = bench.study.host_layer_s(self.machine)
        return fast_replay(bench.scored, steps, self._scheduler(bench, charge_s), charge_s, progress, host_s)

    def _scheduler(self, bench: Bench, decision_s: float | None) -> Scheduler:
        policy = self.strategy.policy()
        return bench.scheduler(self.machine, self.gpu_fraction, policy, decision_s=decision_s)

    def _row(self, bench: Bench, replayed: Replay) -> Row:
        says = traits(self.strategy.policy())
        figures: dict[str, Any] = replayed.stats.as_dict()
        shared = ("tokens_per_s", "hit_rate", "late_share", "bytes_per_token", "wasted_bytes_per_token")
        lanes = {f"{lane}_utilisation": share for lane, share in figures["utilisation"].items()}
        return Row(
            hardware=self.machine.name,
            gpu_fraction=self.gpu_fraction,
            gpu_bytes=bench.study.gpu_bytes(self.gpu_fraction),
            strategy=self.strategy.label,
            step_s=replayed.step_s,
            stall_s_per_token=figures["stall_s_per_token"],
            decision_s_per_token=figures["decision_s_per_token"],
            efficiency=None,
            host_s_per_token=figures["host_s_per_token"],
            overlapped_s_per_token=replayed.stats.overlapped_s / max(replayed.stats.tokens, 1),
            **{name: figures[name] for name in shared},
            **lanes,
            **says._asdict(),
        )


class CellResult(NamedTuple):
    """A row that does not know its rank and efficiency yet, and the seconds of each step [S]."""

    row: Row
    step_s_S: FloatArray


class Probe(Scheduler):
    """A scheduler that remembers how long each decision took, in seconds."""

    taken_s: list[float]

    def step(self, demand: Demand, link: LinkState = IDLE) -> Plan:
        """Decide one layer."""
        plan = super().step(demand, link)
        self.__dict__.setdefault("taken_s", []).append(plan.decision_s)
        return plan


def _first_steps(steps: Steps, count: int) -> Steps:
    return replace(steps, begin_S=steps.begin_S[:count], end_S=steps.end_S[:count], phase_S=steps.phase_S[:count])
