"""One model on one emulated machine: a generation for totals, one for where the time goes, and replayed calls.

Shapes: S steps, C calls of expert modules.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from hetsched.accelerators.emulated.device import EmulatedAccelerator
from hetsched.machine import gallery
from hetsched.machine.profile import HardwareProfile
from hetsched.replay.simulator import ConstantClock
from hetsched.types import Phase

from .c_function import c_function_seconds
from .decode_watch import Calls, DecodeWatch
from .hollow import hollow_model, timing_only, tiny_model
from .spans import DECISION, MEANING, PARTS, WAIT, time_everything, time_others
from .stopwatch import Stopwatch

DEMO, TINY = "demo", "tiny-random"
PROMPT_TOKENS = 8
PASSES = 3
STEPS_BEFORE = 8  # forward passes that are not counted, the prompt's among them
Tick: TypeAlias = Callable[[], None]
TimeWhat: TypeAlias = Callable[[Stopwatch, Any, type[Any]], None]
Seen: TypeAlias = tuple[DecodeWatch, list[dict[str, float]]]


@dataclass(frozen=True)
class Settings:
    """What is measured. `steps`: decoded tokens scored of each row, in each pass; `layers`: of models without numbers.

    `demo_as`: gallery model whose seconds the demo model's layers take, "" for its own. `decision_s`: what each
    decision is charged on the emulated clock, and the host between decisions nothing; None for what both took here.
    """

    models: Sequence[str] = ("demo", "qwen3-30b-a3b")
    hardware: Sequence[str] = ("rtx-4060-laptop-8gb",)
    gpu_memory: str = "25%"
    policy: str = "hetsched"
    steps: int = 64
    layers: int = 4
    seed: int = 0
    demo_as: str = "gpt-oss-20b"
    decision_s: float | None = None
    forecaster: str | None = None


@dataclass(frozen=True)
class Case:
    """What to measure. `computes`: whether kernels do arithmetic; `timed_as`: whose seconds layers take."""

    model: str
    machine: HardwareProfile
    settings: Settings
    computes: bool
    timed_as: str | None
    note: str = ""

    @classmethod
    def of(cls, model: str, hardware: str, settings: Settings) -> Case:
        """Raises InputError for unknown names; the demo model, where it was not built, is a tiny random one."""
        machine = gallery.machine(hardware)
        EmulatedAccelerator(machine, 0).close()  # a machine without a GPU is an error before anything is built
        if model.lower() != DEMO:
            model = gallery.model_card(model).geometry.name
            note = f"{settings.layers} layers, random routing, kernels take their time and compute nothing"
            return cls(model, machine, settings, False, None, note)
        from hetsched.machine.demo_geometry import cached_folder

        timed_as = settings.demo_as or None
        if timed_as:
            gallery.model(timed_as)
        if (cached_folder() / "config.json").is_file():
            return cls(DEMO, machine, settings, True, timed_as)
        note = "the demo model is not built (make demo): a tiny random one in its place"
        return cls(TINY, machine, settings, True, timed_as, note)

    def row(self, tick: Tick) -> dict[str, Any]:
        """Measure: one row of the document."""
        model = self._built()
        with contextlib.nullcontext() if self.computes else timing_only():
            totals, seconds = self._pass(model, tick, (Stopwatch(), Stopwatch(time.thread_time)), time_others)
            detail, spent = self._pass(model, tick, (Stopwatch(time.thread_time),), time_everything)
            calls = [step for step in totals.calls if step]
            warm, _ = self._pass(model, tick, (Stopwatch(time.thread_time),), time_others, calls)
            with self._attached(model) as handle:
                alone_s = c_function_seconds(handle.scheduler, [[given[1] for _, given in step] for step in calls])
        return {
            "model": self.model,
            "hardware": self.machine.name,
            "timed_as": self.timed_as,
            "policy": self.settings.policy,
            "gpu_memory": self.settings.gpu_memory,
            "computes": self.computes,
            "decision_charged_s": self.settings.decision_s,
            "note": self.note,
            "emulated": True,
            "steps": len(totals.steps),
            "layer_calls": len(totals.active_C),
            "active_experts": float(np.median(totals.active_C)),
            **_of_layers(totals, seconds),
            "layer_overhead_warm_cpu_s": float(np.median(warm.own_s_C)),
            "ids_to_launch_warm_s": float(np.median(warm.launch_s_C)),
            **alone_s,
            **_of_steps(totals),
            **_where(totals, detail, spent[0]),
        }

    def _built(self) -> Any:
        if not self.computes:
            return hollow_model(self.model, self.settings.layers, self.settings.seed)
        if self.model == TINY:
            return tiny_model(self.settings.layers, self.settings.seed)
        import transformers

        from hetsched.machine.demo_geometry import cached_folder

        transformers.utils.logging.disable_progress_bar()
        return transformers.AutoModelForCausalLM.from_pretrained(cached_folder(), dtype=torch.float32).eval()

    def _pass(
        self, model: Any, tick: Tick, watches: tuple[Stopwatch, ...], time_what: TimeWhat, replayed: Calls = ()
    ) -> Seen:
        """Generate once, watched: what was seen, and for each stopwatch seconds by label.

        `replayed`: do only these calls of expert modules instead, without sleeping for the lanes.
        """
        from hetsched.integrations.expert_modules import expert_modules

        module_class = type(expert_modules(model)[0])
        with contextlib.ExitStack() as stack:
            handle = stack.enter_context(self._attached(model))
            if self.settings.decision_s is not None:
                handle.scheduler.clock = ConstantClock(self.settings.decision_s)
                handle.engine.host.charge_s = 0.0  # nor anything else that this host's speed would change
            for watch in watches:
                time_what(stack.enter_context(watch), handle.engine, module_class)
            seen = DecodeWatch(handle, watches, STEPS_BEFORE, tick)
            seen.start(module_class)
            if replayed:
                handle.engine.accelerator.clock.scale = 0.0
                _replay(handle.engine, replayed)
            else:
                _generate(model, STEPS_BEFORE + self.settings.steps, self.settings.seed)
            return seen, [watch.seconds() for watch in watches]

    def _attached(self, model: Any) -> Any:
        from hetsched.integrations.transformers import attach

        accelerator = EmulatedAccelerator(self.machine, time_scale=1.0, timing_only=not self.computes)
        try:
            return attach(
                model,
                hardware=self.machine,
                gpu_memory=self.settings.gpu_memory,
                policy=self.settings.policy,
                forecaster=self.settings.forecaster,
                accelerator=accelerator,
                stand_in_for=self.timed_as,
            )
        except BaseException:
            accelerator.close()
            raise


def _generate(model: Any, forward_passes: int, seed: int) -> None:
    """So many forward passes, sampled, since the greedy text of a random model is one token again and again."""
    torch.manual_seed(seed)
    ids = torch.randint(3, model.config.vocab_size, (1, PROMPT_TOKENS))
    many = {"max_new_tokens": forward_passes, "min_new_tokens": forward_passes, "do_sample": True, "pad_token_id": 0}
    model.generate(ids, attention_mask=torch.ones_like(ids), **many)


def _replay(engine: Any, calls: Calls) -> None:
    """The calls of decode steps, the first of them twice: steps before counting begins."""
    with torch.no_grad():
        for step in [*[calls[0]] * STEPS_BEFORE, *calls]:
            engine.begin_step(Phase.DECODE)
            for module, arguments in step:
                module(*arguments)
            engine.end_step()


def _of_layers(seen: DecodeWatch, seconds: list[dict[str, float]]) -> dict[str, Any]:
    own_s_C, own_cpu_s_C = (np.array(own_s) for own_s in seen.own_s_C)
    calls, counted_s = len(own_s_C), seen.counted_s()
    emulation_s = {
        "woke late from sleeping": counted_s["slept"] - counted_s["due"],
        "did the lanes' work": counted_s["worked"],
        "bookkeeping": seconds[0][WAIT] - counted_s["slept"] - counted_s["worked"],
    }
    return {
        "host_layer_s": float(np.median(seen.host_s_C)),
        "ids_to_launch_s": float(np.median(seen.launch_s_C)),
        "layer_overhead_s": float(np.median(own_s_C)),
        "layer_overhead_p95_s": float(np.percentile(own_s_C, 95)),
        "layer_overhead_cpu_s": float(np.median(own_cpu_s_C)),
        "layer_overhead_cpu_p95_s": float(np.percentile(own_cpu_s_C, 95)),
        "decision_s": counted_s["decision"] / calls,
        "overlapped_s": counted_s["overlapped"] / calls,
        "decision_cpu_s": seconds[1][DECISION] / calls,
        "emulation_s": {name: s / calls for name, s in emulation_s.items()},
    }


def _where(totals: DecodeWatch, detail: DecodeWatch, spent_s: dict[str, float]) -> dict[str, Any]:
    """Seconds a layer by label, and by part of the way from the door to the sum."""
    breakdown_s = {label: spent_s.get(label, 0.0) / len(detail.active_C) for label in MEANING}
    counted_s, calls = totals.counted_s(), len(totals.active_C)
    parts = {name: sum(breakdown_s[label] for label in labels) for name, labels in PARTS.items()}
    beside = {"deciding_s": counted_s["decision"] / calls, "learning_s": counted_s["overlapped"] / calls}
    return {"breakdown_s": breakdown_s, "parts": {**parts, **beside}}


def _of_steps(seen: DecodeWatch) -> dict[str, Any]:
    steps = list(seen.steps.values())
    predicted_s_S, executed_s_S = (np.array([getattr(s, f"{k}_s") for s in steps]) for k in ("predicted", "executed"))
    error_S = np.abs(executed_s_S / predicted_s_S - 1)
    expected_s_S = np.array([step.predicted_experts_s for step in steps])
    experts_error_S = np.abs(np.array([step.executed_experts_s for step in steps]) / expected_s_S - 1)
    return {
        "predicted_step_s": float(np.median(predicted_s_S)),
        "executed_step_s": float(np.median(executed_s_S)),
        "error": float(np.median(error_S)),
        "error_p95": float(np.percentile(error_S, 95)),
        "experts_error": float(np.median(experts_error_S)),
        "experts_error_p95": float(np.percentile(experts_error_S, 95)),
        "host_last_share": sum(step.host_last for step in steps) / sum(step.layers for step in steps),
    }
