"""Where the engine's own time goes: which functions are timed, and what their labels mean."""

from __future__ import annotations

from typing import Any

from hetsched.engine import executor as executor_code
from hetsched.engine.engine import Engine

from .stopwatch import Stopwatch

DOOR, ENGINE, DECISION, WAIT = "door", "engine loop", "decision", "wait"
MEANING = {
    DOOR: "transformers' call of the module, and the door to the engine",
    "step hooks": "hooks of the model at the beginning and end of a step",
    ENGINE: "lock, token counts (bincount), order of calls",
    "demand": "the demand as an object",
    "link state": "asking the copy engine, arrivals",
    "grouping": "tokens and router weights sorted by expert",
    "launching": "the lanes' calls, their seconds, and room for results",
    "copies": "slots changed, copies prepared",
    "submitting": "calls of the accelerator that queue work or ask for copies (the emulated one's)",
    "collecting": "arming the watch over copies, waiting for the layer, without the wait itself",
    "summing": "contributions added in order, by one compiled call",
    "outcome": "busy and stall times of the lanes' calls",
    "observing": "scheduler told of the outcome",
}
PARTS = {
    "door_s": (DOOR, "step hooks"),
    "launching_s": (ENGINE, "demand", "link state", "grouping", "launching", "copies", "submitting"),
    "finishing_s": ("collecting", "summing", "outcome", "observing"),
}  # beside deciding, and learning and choosing prefetches
_SCHEDULER = (("demand", "demand"), ("routed_demand", "demand"), ("observe", "observing"))
_EXECUTOR = (
    ("link_state", "link state"),
    ("submit", "launching"),
    ("prefetch", "copies"),
    ("finish", "summing"),
    ("_outcome", "outcome"),
)
_ACCELERATOR = (
    ("copy_state", "submitting"),
    ("copy_in", "submitting"),
    ("launch", "submitting"),
    ("promote", "submitting"),
    ("overlapped", "submitting"),
)
_DECISIONS = ("step", "prefetch")
_WAITS = ("begin_layer", "decided", "end_layer")


def time_others(watch: Stopwatch, engine: Engine, module_class: type[Any]) -> None:
    """Only what is no time of the engine's own: the accelerator's waits, and decisions."""
    for name in _WAITS:
        watch.wrap(engine.accelerator, name, WAIT)
    for name in _DECISIONS:
        watch.wrap(engine.scheduler, name, DECISION)


def time_everything(watch: Stopwatch, engine: Engine, module_class: type[Any]) -> None:
    """All labels of MEANING, and what is not the engine's own time. The door is the calls of `module_class`."""
    time_others(watch, engine, module_class)
    executor: Any = engine._executor
    watch.wrap(module_class, "__call__", DOOR)
    watch.wrap(engine, "forward", ENGINE)
    watch.wrap(engine, "begin_step", "step hooks")
    watch.wrap(engine, "end_step", "step hooks")
    for owner, spans in ((engine.scheduler, _SCHEDULER), (executor, _EXECUTOR), (engine.accelerator, _ACCELERATOR)):
        for name, label in spans:
            watch.wrap(owner, name, label)
    watch.wrap(executor_code, "HostParts", "grouping")
    watch.wrap(executor._copies, "start", "copies")
    watch.wrap(executor._copies, "wait", "collecting")
