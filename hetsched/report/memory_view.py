"""The memory plan in lines for people."""

from __future__ import annotations

from hetsched.machine.sizes import show_bytes
from hetsched.memory.plan import Lines, MemoryPlan

_NAMES = {
    "experts": "experts",
    "dense": "dense weights",
    "kv_cache": "KV cache",
    "prefill": "prefill",
    "draft": "draft model",
    "staging": "staging",
    "reserve": "reserve",
}


def plan_line(plan: MemoryPlan) -> str:
    """Where the model's weights run, line by line: what each takes, and what is left or missing."""
    if plan.gpu_bytes:
        return _line("GPU", plan, plan.gpu, plan.gpu_bytes, plan.gpu_left_bytes)
    return _line("host", plan, plan.host, plan.host_bytes, plan.host_left_bytes)


def _line(memory: str, plan: MemoryPlan, lines: Lines, total_bytes: int, left_bytes: int) -> str:
    values = {name: getattr(lines, name) for name in _NAMES}
    shown = [f"{_NAMES[name]} {show_bytes(value)}" for name, value in values.items() if value]
    left = f"{show_bytes(left_bytes)} left" if left_bytes >= 0 else f"{show_bytes(-left_bytes)} TOO MUCH"
    sequences = "" if plan.batch == 1 else f" x {plan.batch}"
    planned = f"planned for {plan.context}{sequences} tokens"
    return f"{memory} {show_bytes(total_bytes)}, {planned}: {', '.join([*shown, left])}"
