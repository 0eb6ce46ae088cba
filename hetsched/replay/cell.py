"""Cell: one strategy on one machine at one share of the experts, replayed.

Shapes: S steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..deciders.pace import Pace
from ..machine.profile import HardwareProfile
from ..policy import is_compiled, traits_of
from ..scheduler import IDLE, Scheduler
from ..speculation.controller import Controller
from ..traces.speculative import Guesses
from ..traces.verified import Drafting
from ..types import Copies, Demand, FloatArray, LinkState, Plan
from .choosing import Drafted, simulate_choosing
from .drafts import AUTO
from .left_out import decoding_s
from .opened import Bench
from .simulator import ConstantClock, Progress, Replay, simulate
from .strategies import Strategy

PROBE_LAYERS = 1024  # layer-steps whose decision time is charged to a strategy that is replayed in a compiled loop


@dataclass(frozen=True)
class Row:
    """What a strategy came to. Tokens are all tokens scored; those of `tokens_per_s` are decoded or verified ones.

    Seconds are of layers with experts. `whole_tokens_per_s` counts besides, of each decoded token,
    `left_out_s_per_token`: the output head, attention over the text so far, and layers without experts. None for both
    where the model's sizes are not known.

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
    left_out_s_per_token: float | None = None
    whole_tokens_per_s: float | None = None


@dataclass(frozen=True)
class SpeculativeRow(Row):
    """A row of a comparison of speculation: the system that the strategy stands for, and how it drafted.

    `drafts`: asked for before each step, "auto" where that was chosen anew each time, "" token by token. `dtype`: of
    the experts. Tokens are those that stayed in the text. `gpu_bytes`: for experts, a draft model's taken off.
    """

    dtype: str = ""
    system: str = ""
    drafts: str = ""
    acceptance: float = 0.0
    mean_k: float = 0.0
    go_share: float = 0.0

    @classmethod
    def of(cls, found: CellResult, dtype: str, system: str, drafts: str) -> SpeculativeRow:
        """A cell's row with these words."""
        drafting = {} if found.drafting is None else found.drafting._asdict()
        return cls(**vars(found.row), dtype=dtype, system=system, drafts=drafts, **drafting)


class Cell(NamedTuple):
    """A task: one strategy on one machine at one fraction. `drafts`: of each step, from the study's speculation."""

    machine: HardwareProfile
    gpu_fraction: float
    strategy: Strategy
    drafts: int = 0

    def run(self, bench: Bench, progress: Progress | None = None) -> CellResult:
        """Replay the scored part of the study's trace."""
        bench = bench.verifying(self.drafts)
        return self.result(bench, self.replay(bench, progress))

    def result(self, bench: Bench, replayed: Replay) -> CellResult:
        """What a replay of this cell came to."""
        return CellResult(self._row(bench, replayed), replayed.step_s_S, replayed.drafting)

    def try_out(self, bench: Bench) -> Tried:
        """What deciding takes in the first steps, by a scheduler of its own; whatever is compiled, is then."""
        steps = bench.steps.first(-(-PROBE_LAYERS // bench.study.geometry.num_layers))
        scheduler = bench.scheduler(self.machine, self.gpu_fraction, self.strategy.policy(), Probe)
        assert isinstance(scheduler, Probe)
        simulate(bench.scored, steps, scheduler, true_hardware=bench.study.true_machine)
        return Tried(_typical(scheduler.taken_s), _typical(scheduler.beside_s), is_compiled(scheduler.policy))

    def replay(self, bench: Bench, progress: Progress | None = None) -> Replay:
        """Replay the scored part of the study's trace, step by step."""
        charge_s, policy = bench.study.decision_s, self.strategy.policy()
        if charge_s is not None:
            clock: Callable[[], float] = ConstantClock(charge_s)
        else:
            longest = bench.study.speculation.k_max if bench.study.speculation and self.drafts == AUTO else 0
            tried = self.try_out(bench.verifying(longest))
            clock = ConstantClock(tried.decision_s, tried.beside_s) if tried.is_compiled else time.perf_counter
        scheduler = bench.scheduler(self.machine, self.gpu_fraction, policy, clock=clock)
        steps, speculation = bench.steps, bench.study.speculation
        charged = bench.study.host_layer_s(self.machine), bench.study.true_machine
        if self.drafts and speculation is not None:
            token_s = speculation.draft.seconds(self.machine)
            if self.drafts == AUTO:
                chosen = Controller(speculation.k_max, scheduler.cost, draft_token_s=token_s)
                drafted = Drafted(Guesses(bench.scored, speculation.acceptance), chosen, token_s)
                return simulate_choosing(bench.scored, steps, drafted, scheduler, progress, *charged)
            steps = steps.with_drafting(token_s)
        return simulate(bench.scored, steps, scheduler, progress, *charged)

    def _row(self, bench: Bench, replayed: Replay) -> Row:
        policy = self.strategy.policy()
        says = traits_of(policy)
        if bench.study.foresees(policy):
            says = says._replace(clairvoyant=True)
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
            **self._whole(bench, replayed),
            **{name: getattr(says, name) for name in ("family", "clairvoyant", "lossless", "stand_in")},
        )

    def _whole(self, bench: Bench, replayed: Replay) -> dict[str, Any]:
        """The figures that count what the replay leaves out; none where that is not known, or nothing was decoded."""
        left_out, stats = bench.left_out(self.machine), replayed.stats
        if not left_out or not stats.decode_tokens:
            return {}
        left_out_s = decoding_s(left_out, replayed.steps, replayed.context_S)
        return {
            "left_out_s_per_token": left_out_s / stats.decode_tokens,
            "whole_tokens_per_s": stats.decode_tokens / (stats.decode_s + left_out_s),
        }


class CellResult(NamedTuple):
    """A row that does not know its rank and efficiency yet, the seconds of each step [S], and how it speculated."""

    row: Row
    step_s_S: FloatArray
    drafting: Drafting | None = None


class Tried(NamedTuple):
    """Seconds of a decision before and beside the lanes, and whether the policy is a compiled one."""

    decision_s: float
    beside_s: float
    is_compiled: bool


class Probe(Scheduler):
    """A scheduler that remembers how long each decision took, in seconds, before and beside the lanes.

    It looks ahead in every step: whether that pays is for those to say whom its seconds are charged to.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pace = Pace()
        self.taken_s: list[float] = []
        self.beside_s: list[float] = []

    def step(self, demand: Demand, link: LinkState = IDLE) -> Plan:
        """Decide one layer."""
        plan = super().step(demand, link)
        self.taken_s.append(plan.decision_s)
        return plan

    def prefetch(self, link: LinkState = IDLE) -> Copies:
        """Learn, and choose copies."""
        copies = super().prefetch(link)
        self.beside_s.append(copies.decision_s)
        return copies


def _typical(taken_s: list[float]) -> float:
    """Mean of the later half, without the slowest twentieth: other processes' turns, not decisions."""
    later_s = np.sort(taken_s[len(taken_s) // 2 :])
    return float(later_s[: max(1, len(later_s) * 19 // 20)].mean()) if len(later_s) else 0.0
