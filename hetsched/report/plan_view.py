"""A plan for a terminal: speeds first, then memory, a token's time, what the range depends on, and changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from hetsched.machine.sizes import show_bytes
from hetsched.machine.units import human
from hetsched.memory.plan import NAMES
from hetsched.report.tables import Column, Page, Sheet, figures, notes, to_copy

if TYPE_CHECKING:
    from hetsched.memory.plan import MemoryPlan
    from hetsched.planning.plan import Plan

NAMED = {**NAMES, "prefill": "prompt's largest layer", "staging": "staging of copies", "reserve": "driver's reserve"}


def plan_view(plan: Plan, remarks: Sequence[str] = ()) -> Page:
    """All of it. `remarks`: what a reader of any figure should know."""
    question, memory = plan.question, plan.memory
    sequences = "" if memory.batch == 1 else f" x {memory.batch}"
    title = (
        f"{question.model.published.name} ({question.subject.file}) on {question.profile.name}, "
        f"{question.engine.name}, context of {memory.context:,}{sequences} tokens"
    )
    parts: list[RenderableType] = [Text(title, style="bold"), Text(plan.strategy_text, style=_style(plan))]
    parts += [Text(f"what makes it fit: {', or '.join(plan.remedies)}")] if plan.remedies else []
    if plan.outlook is not None:
        parts += ["", _speeds(plan)]
    parts += ["", _memory(memory), *map(Text, _rooms(memory))]
    if plan.outlook is not None:
        parts += ["", _time(plan), "", _depends(plan)]
    if plan.gains:
        parts += ["", _gains(plan)]
    parts += ["", *_llama_cpp(plan)] if memory.fits else []
    return Page(*parts, "", *notes(remarks))


def _style(plan: Plan) -> str:
    return "" if plan.memory.fits else "bold red"


def _speeds(plan: Plan) -> Sheet:
    question = plan.question
    clock = "simulated" if plan.traced else "estimated"
    table = Sheet("tokens/s", *figures("low", "expected", "high"), Column("", prose=True))
    together = f", all {question.batch:,} sequences together" if question.batch > 1 else ""
    text = f"{clock}{together}; bottleneck {_bottleneck(plan)}"
    table.add("decode", *map(_speed, plan.decode), text, style="bold")
    table.add("prompt", *map(_speed, plan.prefill), f"estimated, {question.prompt:,} tokens")
    if plan.strategy == "hot-experts" and plan.outlook is not None:
        shares = (f"{hit or 0.0:.0%}" for hit in plan.outlook.hit)
        table.add("hits", *shares, "of the demand, by experts on the GPU")
    asked, drafted = question.speculation, plan.drafted
    if asked is not None and drafted is not None:
        used = "used" if drafted.pays else "not used: they do not pay"
        text = f"with {asked.drafts} drafts of {asked.acceptance:.0%}, {drafted.plain_tokens_per_s:.1f} without; {used}"
        table.add("drafts", "", _speed(drafted.tokens_per_s), "", text)
    if plan.traced is not None:
        text = f"replay alone, without head and attention: {plan.traced.tokens:,} tokens of {plan.traced.trace}"
        text += f", {plan.traced.hit_rate:.0%} hits"
        table.add("trace", "", _speed(plan.traced.tokens_per_s), "", text)
    return table


def _bottleneck(plan: Plan) -> str:
    assert plan.outlook is not None
    times = plan.outlook.times
    name = times.bottleneck
    return f"{name}, busy {human(times.lanes[name], 's')} of {human(times.total_s, 's')}, {_token(plan)}"


def _token(plan: Plan) -> str:
    """What the seconds of a token are, where steps have several."""
    batch = plan.question.batch
    if batch > 1:
        return f"a token's share of a step of {batch}"
    return "a token's share of a step with drafts" if plan.drafted is not None and plan.drafted.pays else "a token"


def _speed(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _memory(memory: MemoryPlan) -> Sheet:
    table = Sheet("memory", *figures("GPU", "host"))
    on_host = asdict(memory.host)
    for name, size in asdict(memory.gpu).items():
        if size or on_host[name]:
            table.add(NAMED.get(name, name), _size(size), _size(on_host[name]))
    table.add("in all", _size(memory.gpu.total), _size(memory.host.total), style="bold")
    table.add("there is", _size(memory.gpu_bytes), _size(memory.host_bytes))
    table.add("left", _left(memory.gpu_left_bytes) if memory.gpu_bytes else "", _left(memory.host_left_bytes))
    return table


def _size(num_bytes: int) -> str:
    return show_bytes(num_bytes) if num_bytes else ""


def _left(num_bytes: int) -> str:
    return show_bytes(num_bytes) if num_bytes >= 0 else f"{show_bytes(-num_bytes)} TOO MUCH"


def _rooms(memory: MemoryPlan) -> list[str]:
    lines = []
    if memory.gpu_bytes:
        room = f"{memory.slots:,} of {memory.experts:,} experts on the GPU, {show_bytes(memory.expert_bytes)} each"
        more = f"; all need {show_bytes(memory.missing_bytes)} more" if memory.missing_bytes else ""
        lines.append(f"{room}{more}")
    if memory.shared:
        lines.append("GPU and host have one memory, in which both have their lines; what is left is left by both")
    if memory.pinned_bytes:
        lines.append(f"pinned of the host's memory: {show_bytes(memory.pinned_bytes)}")
    return lines


def _time(plan: Plan) -> Sheet:
    assert plan.outlook is not None
    times = plan.outlook.times
    token = _token(plan)
    table = Sheet("a token's time" if token == "a token" else token, *figures("expected", "of it"))
    for name, seconds in times.parts.items():
        if seconds:
            text = name.removesuffix("_s").replace("_", " ")
            table.add(PARTS.get(text, text), human(seconds, "s"), f"{seconds / times.total_s:.0%}")
    if times.hidden_s:
        table.add("of these, beside others", human(times.hidden_s, "s"), f"{times.hidden_s / times.total_s:.0%}")
    return table


PARTS = {
    "dense": "dense weights",
    "attention": "attention over the context",
    "gpu experts": "experts on the GPU",
    "cpu experts": "experts on the CPU",
    "link": "experts copied",
    "round trips": "activations to the CPU and back",
    "host": "the engine itself",
}


def _depends(plan: Plan) -> Sheet:
    assert plan.outlook is not None
    table = Sheet("the range depends on", *figures("low", "high"), Column("because", prose=True))
    for found in plan.outlook.depends_on:
        table.add(found.unknown.name, _speed(found.low), _speed(found.high), found.unknown.text)
    return table


def _gains(plan: Plan) -> Sheet:
    now = None if plan.outlook is None else plan.outlook.times.tokens_per_s
    table = Sheet("with", *figures("decode", "change", "prompt"), Column(""))
    for gain in plan.gains:
        change = "" if gain.decode is None or now is None else f"{gain.decode / now - 1:+.0%}"
        note = "does not fit" if gain.decode is None else "" if gain.exact else "not exact"
        table.add(gain.text, _speed(gain.decode), change, _speed(gain.prefill), note)
    return table


def _llama_cpp(plan: Plan) -> list[RenderableType]:
    flags = plan.llama_cpp
    speed = "" if flags.decode is None else f" ({_speed(flags.decode)} tokens/s expected of it)"
    lines = [f"llama.cpp{speed}: {flags.flags}"]
    lines += [f"  or, for --n-cpu-moe: -ot '{flags.override}'"] if flags.override else []
    lines += [f"  forks with a hot-expert cache: {flags.fork_flags}"] if flags.fork_flags else []
    return [to_copy(line) for line in lines]
