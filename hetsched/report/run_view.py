"""A run in one line each: what is attached where, and what it came to."""

from __future__ import annotations

from typing import Any

from hetsched.machine.sizes import show_bytes


def memory_line(handle: Any) -> str:
    """Machine, accelerator, strategy, and the memory plan, before a run."""
    total, held, plan = handle.geometry.all_slots_bytes, handle.engine.gpu_expert_bytes, handle.plan
    emulated = handle.engine.accelerator.emulated
    machine = f"{handle.hardware.name} ({'emulated' if emulated else 'measured'})"
    if plan.gpu_bytes:
        split = f"{show_bytes(held)} of {show_bytes(total)} of experts on the GPU ({held / total:.0%})"
        first = f"{machine}, {handle.scheduler.policy.name}: {split}"
    else:
        first = f"{machine}, no accelerator: experts on the CPU"
    notes = () if emulated else handle.hardware.notes
    return "\n".join([first, str(plan), *notes])


def faults_line(stats: dict[str, Any]) -> str:
    """What a run has survived, by how often, "" for nothing; with slots that were given back."""
    faults = [f"{name} {count} times" for name, count in stats["faults"].items()]
    resized = [f"slots changed {stats['resizes']} times, {stats['slots']} now"] if stats["resizes"] else []
    return ", ".join([*faults, *resized])


def stats_line(stats: dict[str, Any]) -> str:
    """Speed, hits, and copies of a run."""
    kind = "emulated" if stats["emulated"] else "measured"
    per_layer = 1e6 / max(stats["layers"], 1)
    speculation = stats.get("speculation")
    decoded = f"decoding {stats['decode_tokens']} tokens"
    if speculation:
        decoded = f"decoding {speculation['steps'] + speculation['accepted']} tokens, drafting included"
    return (
        f"{(speculation or stats)['tokens_per_s']:.1f} tokens/s ({kind}, {decoded}), "
        f"hit rate {stats['hit_rate']:.0%}, {show_bytes(stats['bytes_per_token'])} moved per token, "
        f"{per_layer * stats['decision_s']:.0f} µs to decide a layer, host {per_layer * stats['host_s']:.0f} µs a layer"
    )


def speculation_line(speculation: dict[str, Any] | None) -> str:
    """What came of drafts; "" where nothing was speculated."""
    if speculation is None:
        return ""
    spent_s = speculation["step_s"] + speculation["draft_s"]
    who = f"speculation by {speculation['draft']}, {speculation['k']}"
    if not speculation["drafted"]:
        return f"{who}: no drafts in {speculation['steps']} steps"
    return (
        f"{who}: {speculation['acceptance']:.0%} of "
        f"{speculation['drafted']} drafts accepted, {speculation['mean_k']:.2f} a step, "
        f"{speculation['go_share']:.0%} of steps verified any, "
        f"{speculation['draft_s'] / spent_s if spent_s else 0.0:.0%} of the time spent drafting"
    )


def wall_line(tokens: int, wall: dict[str, Any]) -> str:
    """What a run took on the clock on the wall, and how it relates to emulated seconds. `wall`: of Generated."""
    scale = wall["time_scale"]
    emulated = f"; an emulated second takes {scale:g}" if scale != 1 else ""
    return (
        f"{tokens} tokens in {wall['wall_s']:.1f} wall seconds, prompt included: "
        f"{wall['wall_tokens_per_s']:.2f} tokens/s{emulated}"
    )


def stop_line(stopped_by: str, max_new_tokens: int) -> str:
    """Said of a text that was cut, "" of any other."""
    return f"stopped at --max-new-tokens {max_new_tokens}" if stopped_by == "length" else ""
