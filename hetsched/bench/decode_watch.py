"""DecodeWatch: what the decode steps of an attached model came to, seen from outside.

Shapes: S steps, C calls of expert modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hetsched.engine import engine
from hetsched.types import Outcome

from .spans import DECISION, WAIT
from .stopwatch import Stopwatch

Calls: TypeAlias = Sequence[Sequence[tuple[Any, tuple[Any, ...]]]]


@dataclass
class StepSeconds:
    """One step on the emulated clock: the whole of it and its experts alone, by the plans and as executed.

    `host_last`: layers that ended when the host had chosen its prefetches, after all lanes; no plan predicts that.
    """

    predicted_s: float = 0.0
    executed_s: float = 0.0
    predicted_experts_s: float = 0.0
    executed_experts_s: float = 0.0
    layers: int = 0
    host_last: int = 0

    def add(self, outcome: Outcome, host_s: float) -> None:
        """One more layer, whose prefetches took the host `host_s` to choose."""
        self.layers += 1
        self.host_last += host_s > 0 and outcome.makespan_s <= host_s * (1 + 1e-9)
        before_s = outcome.dense_s + outcome.host_s + outcome.plan.decision_s
        self.predicted_s += before_s + outcome.plan.predicted_s
        self.executed_s += before_s + outcome.makespan_s
        self.predicted_experts_s += outcome.plan.predicted_s
        self.executed_experts_s += outcome.makespan_s


@dataclass
class DecodeWatch:
    """Counts from the forward pass after the first `skip` on; needs waits and decisions on every stopwatch.

    `launch_s_C`: wall seconds from a layer's ids on the host until its last launch, waits apart, its decision not.
    `own_s_C`: for each stopwatch, seconds of each call of an expert module less waits and decisions. `active_C`: the
    calls' active experts; `host_s_C`: what the engine measured of itself. `calls`: those of each step, with copies of
    their arguments.
    """

    handle: Any
    watches: tuple[Stopwatch, ...]
    skip: int
    tick: Callable[[], None]
    steps: dict[int, StepSeconds] = field(default_factory=dict)
    own_s_C: list[list[float]] = field(default_factory=list)
    active_C: list[int] = field(default_factory=list)
    host_s_C: list[float] = field(default_factory=list)
    launch_s_C: list[float] = field(default_factory=list)
    calls: list[list[tuple[Any, tuple[Any, ...]]]] = field(default_factory=list)

    def start(self, module_class: type[Any]) -> None:
        """Look at the scheduler's outcomes, the calls of the expert modules, and the ends of steps."""
        scheduler, first = self.handle.engine.scheduler, self.watches[0]
        first.replace(scheduler, "observe", self._observing(scheduler.observe))
        for watch in self.watches:
            self.own_s_C.append([])
            first.replace(module_class, "__call__", self._calling(module_class.__call__, watch, self.own_s_C[-1]))
        self._watch_launches(self.handle.engine._executor, first)
        first.replace(self.handle.engine, "end_step", self._ending(self.handle.engine.end_step))
        self.begin_s = self._counters()

    def counted_s(self) -> dict[str, float]:
        """Seconds since counting began: decisions, waits, and what the emulated clock asked of them."""
        return {name: now_s - self.begin_s[name] for name, now_s in self._counters().items()}

    def _counters(self) -> dict[str, float]:
        stats, accelerator = self.handle.engine.scheduler.stats, self.handle.engine.accelerator
        return {
            "decision": stats.decision_s,
            "overlapped": stats.overlapped_s,
            "due": accelerator.clock.due_s,
            "slept": accelerator.clock.slept_s,
            "worked": accelerator.worked_s,
        }

    def _observing(self, observe: Callable[[Outcome], None]) -> Callable[[Outcome], None]:
        stats = self.handle.engine.scheduler.stats
        host_s = stats.overlapped_s

        def observed(outcome: Outcome) -> None:
            nonlocal host_s
            observe(outcome)
            before_s, host_s = host_s, stats.overlapped_s
            if not self.skip:
                demand = outcome.plan.demand
                self.steps.setdefault(demand.step, StepSeconds()).add(outcome, host_s - before_s)
                self.active_C.append(len(demand.active))
                self.host_s_C.append(self.handle.engine.host.last_s)

        return observed

    def _calling(self, call: Callable[..., Any], watch: Stopwatch, own_s: list[float]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            others_s, begin_s = watch.spent_s(WAIT) + watch.spent_s(DECISION), watch.now_s()
            out = call(*args, **kwargs)
            took_s = watch.now_s() - begin_s
            if not self.skip:
                if own_s is self.own_s_C[-1]:  # outside what all stopwatches time
                    self.calls[-1].append((args[0], tuple(argument.clone() for argument in args[1:])))
                own_s.append(took_s - (watch.spent_s(WAIT) + watch.spent_s(DECISION) - others_s))
            return out

        return called

    def _watch_launches(self, executor: Any, watch: Stopwatch) -> None:
        engine_code: Any = engine
        demanded, submit, began_s = engine_code.demand_of, executor.submit, 0.0

        def seen(*work: Any) -> Any:
            nonlocal began_s
            began_s = watch.now_s() - watch.spent_s(WAIT)
            return demanded(*work)

        def launched(*plan_and_work: Any) -> None:
            submit(*plan_and_work)
            if not self.skip:
                self.launch_s_C.append(watch.now_s() - watch.spent_s(WAIT) - began_s)

        watch.replace(engine_code, "demand_of", seen)
        watch.replace(executor, "submit", launched)

    def _ending(self, end_step: Callable[[], None]) -> Callable[[], None]:
        def ended() -> None:
            end_step()
            self.tick()
            if not self.skip:
                self.calls.append([])
            else:
                self.skip -= 1
                if not self.skip:
                    for watch in self.watches:
                        watch.reset()
                    self.calls.append([])
                    self.begin_s = self._counters()

        return ended
