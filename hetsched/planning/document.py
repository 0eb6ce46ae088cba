"""A plan as the JSON document "hetsched-plan/1"."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..machine.profile import Source
from .memory import over_bytes
from .model import LLAMA_CPP
from .outlook import Outlook
from .plan import Plan

SCHEMA = "hetsched-plan/1"


def document_of(plan: Plan) -> dict[str, Any]:
    """Everything, ready for JSON. Speeds are tokens a second, null where nothing runs; sizes bytes; times seconds."""
    question, memory, outlook = plan.question, plan.memory, plan.outlook
    gpu_over, host_over = over_bytes(memory)
    return {
        "schema": SCHEMA,
        "clock": "estimated" if plan.traced is None else "simulated",
        "model": question.model.published.name,
        "format": question.subject.geometry.dtype,
        "file": question.subject.file,
        "hardware": question.profile.name,
        "hardware_figures": question.profile.source.value,
        "engine": question.engine.name,
        "context": memory.context,
        "batch": memory.batch,
        "prompt_tokens": question.prompt,
        "fits": memory.fits,
        "memory": {
            **memory.as_dict(),
            "expert_bytes": memory.expert_bytes,
            "experts": memory.experts,
            "gpu_over_bytes": gpu_over,
            "host_over_bytes": host_over,
        },
        "strategy": plan.strategy,
        "strategy_text": plan.strategy_text,
        "remedies": plan.remedies,
        "decode_tokens_per_s": plan.decode._asdict(),
        "prefill_tokens_per_s": plan.prefill._asdict(),
        **_of_outlook(outlook),
        "gains": [asdict(gain) for gain in plan.gains],
        "speculation": _speculation(plan),
        "trace": None if plan.traced is None else _of_trace(plan),
        "llama_cpp_flags": plan.llama_cpp.flags,
        "llama_cpp": {
            "n_cpu_moe": plan.llama_cpp.n_cpu_moe,
            "override_tensor": plan.llama_cpp.override,
            "cache_flags": list(plan.llama_cpp.cache),
            "fork_flags": plan.llama_cpp.fork_flags,
            "decode_tokens_per_s": plan.llama_cpp.decode,
        },
        "notes": notes_of(plan),
    }


def notes_of(plan: Plan) -> list[str]:
    """What a reader of any figure should know."""
    question, memory = plan.question, plan.memory
    profile, longest = question.profile, question.model.shape.longest
    notes = [
        "decoding is simulated on the trace's held-out half, prompts are estimated; nothing was run"
        if plan.traced is not None
        else "speeds are estimated from shapes and rates, nothing was run"
        if memory.fits
        else "no speed is estimated for what does not fit"
    ]
    if question.engine.name != LLAMA_CPP:
        notes.append(
            "a prompt's memory is that of fused attention, or of chunks of it: eager attention stores scores too"
        )
    if profile.source is not Source.MEASURED:
        notes.append(f"{profile.name}: figures are {profile.source.value}")
    if longest and question.context > longest:
        notes.append(f"the model was made for {longest:,} tokens, and the context is {question.context:,}")
    return [*notes, *profile.notes]


def _of_outlook(outlook: Outlook | None) -> dict[str, Any]:
    if outlook is None:
        return {"bottleneck": None, "seconds_per_token": None, "lanes": None, "hit": None, "depends_on": []}
    return {
        "bottleneck": outlook.times.bottleneck,
        "seconds_per_token": {**outlook.times.parts, "hidden_s": outlook.times.hidden_s},
        "lanes": outlook.times.lanes,
        "hit": outlook.hit._asdict(),
        "depends_on": [
            {"what": found.unknown.name, "low": found.low, "high": found.high, "why": found.unknown.text}
            for found in outlook.depends_on
        ],
    }


def _speculation(plan: Plan) -> dict[str, Any] | None:
    asked, drafted = plan.question.speculation, plan.drafted
    if asked is None or drafted is None:
        return None
    return {
        "drafts": asked.drafts,
        "acceptance": asked.acceptance,
        "tokens_per_s": drafted.tokens_per_s,
        "plain_tokens_per_s": drafted.plain_tokens_per_s,
        "pays": drafted.pays,
    }


def _of_trace(plan: Plan) -> dict[str, Any]:
    assert plan.traced is not None
    values = asdict(plan.traced)
    values.pop("speeds")
    return values
