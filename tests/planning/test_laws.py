"""Laws of plans: what more of one thing may never do, and what a range holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hetsched.estimate import Speculation
from hetsched.planning.memory import memory_of, over_bytes
from hetsched.planning.outlook import expected_speeds, outlook_of
from hetsched.planning.plan import planned
from hetsched.planning.question import Question
from hetsched.planning.spread import EVEN_SKEW, HIGH_SKEW, skew_of
from tests.planning.asked import machine, question

ENGINES = st.sampled_from(["hetsched", "llama.cpp"])
MODELS = st.sampled_from(["qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite"])
MACHINES = st.sampled_from(["rtx-4060-laptop-8gb", "rtx-3090", "jetson-orin-nx-16gb", "h100-pcie"])
NEARLY = 1 - 1e-9  # sums of floats
QUICK = (Phase.explicit, Phase.reuse, Phase.generate)  # an example takes a tenth of a second: nothing is shrunk


@given(MODELS, MACHINES, ENGINES, st.floats(5, 30), st.floats(0, 8), st.floats(EVEN_SKEW, HIGH_SKEW))
@settings(max_examples=25, deadline=None, phases=QUICK)
def test_more_gpu_memory_is_never_slower(
    model: str, name: str, engine: str, gib: float, more: float, skew: float
) -> None:
    """Neither a token nor a prompt, and what fitted still fits."""
    small = question(model, engine, profile=machine(gib, name))
    large = small.on(machine(gib + more, name))
    before, after = expected_speeds(small, skew), expected_speeds(large, skew)
    if before is None:
        return
    assert after is not None
    assert after[0] >= before[0] * NEARLY
    assert after[1] >= before[1] * NEARLY


@given(MODELS, ENGINES, st.integers(1, 200_000), st.integers(1, 200_000))
@settings(max_examples=40, deadline=None, phases=QUICK)
def test_more_context_never_takes_less_memory(model: str, engine: str, one: int, other: int) -> None:
    short, long = (
        memory_of(question(model, engine, context_asked=tokens, prompt=1)) for tokens in sorted((one, other))
    )
    assert short.gpu.kv_cache <= long.gpu.kv_cache
    assert short.slots >= long.slots
    assert over_bytes(short) <= over_bytes(long)


@given(MODELS, MACHINES, ENGINES, st.integers(512, 60_000), st.integers(1, 4))
@settings(max_examples=12, deadline=None, phases=QUICK)
def test_a_range_contains_what_is_expected(model: str, name: str, engine: str, context: int, batch: int) -> None:
    """And what each unknown does by itself; hits are higher the more skewed routing is."""
    asked = question(model, engine, profile=machine(name=name), context_asked=context, batch=batch)
    memory = memory_of(asked)
    if not memory.fits:
        return
    outlook = outlook_of(asked, memory)
    now = outlook.times.tokens_per_s
    for found in (outlook.decode, outlook.prefill, outlook.hit):
        low, expected, high = (value or 0.0 for value in found)
        assert 0 <= low <= expected <= high
        for alone in outlook.depends_on if found is outlook.decode else ():
            assert low <= alone.low <= now <= alone.high <= high
    assert outlook.decode.expected == now
    assert outlook.decode.low != outlook.decode.high


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=20, deadline=None, phases=QUICK)
def test_more_layers_on_the_cpu_are_never_faster(one: int, other: int) -> None:
    few, many = (
        question("qwen3-30b-a3b", "llama.cpp", profile=machine(24), n_cpu_moe=count) for count in sorted((one, other))
    )
    assert memory_of(few).gpu.experts >= memory_of(many).gpu.experts
    assert memory_of(few).host.experts <= memory_of(many).host.experts
    before, after = expected_speeds(few), expected_speeds(many)
    assert before is not None
    assert after is not None
    assert after[0] <= before[0] / NEARLY


@pytest.mark.parametrize("engine", ["hetsched", "llama.cpp"])
def test_what_more_memory_brings_is_estimated_anew(engine: str) -> None:
    """The gain of a gigabyte is the speed of the machine that has it."""
    asked = question(engine=engine)
    gain = next(gain for gain in planned(asked).gains if gain.change == "gpu_memory")
    assert (gain.decode, gain.prefill) == expected_speeds(asked.on(machine(9)))


def test_no_change_makes_a_machine_slower_but_larger_experts() -> None:
    plan = planned(question())
    assert plan.outlook is not None
    now = plan.outlook.times.tokens_per_s
    faster = [gain.decode for gain in plan.gains if gain.change != "format"]
    assert {gain.change for gain in plan.gains} == {"gpu_memory", "pcie", "dram", "format"}
    assert all(speed is not None and speed >= now * NEARLY for speed in faster)
    larger = next(gain for gain in plan.gains if gain.text == "experts in q8_0")
    assert larger.decode is None or larger.decode < now


def drafting(acceptance: float) -> Question:
    return question(speculation=Speculation(4, acceptance, 0), draft_s=0.0)


def test_drafts_are_used_where_they_pay_and_only_there() -> None:
    good, bad = planned(drafting(0.95)), planned(drafting(0.0))
    plain = planned(question())
    assert good.drafted is not None
    assert bad.drafted is not None
    assert good.drafted.pays
    assert not bad.drafted.pays
    assert bad.decode == plain.decode
    assert good.decode.expected is not None
    assert plain.decode.expected is not None
    assert good.decode.expected > plain.decode.expected


@pytest.mark.parametrize("batch", [2, 64, 65_536])
def test_sequences_together_are_faster_than_one(batch: int) -> None:
    """In tokens a second of all, and a plan of many takes no longer to make."""
    asked = question(batch=batch, context_asked=64, prompt=64, profile=machine(80))
    many, one = expected_speeds(asked), expected_speeds(question(context_asked=64, prompt=64, profile=machine(80)))
    if many is None:
        assert batch > 64
        return
    assert one is not None
    assert many[0] > one[0]


def test_a_drafts_bytes_are_the_experts_loss() -> None:
    draft = replace(drafting(0.7), draft_bytes=1 << 30)
    memory, plain = memory_of(draft), memory_of(question())
    assert memory.gpu.draft == 1 << 30
    assert (plain.slots - memory.slots) * memory.expert_bytes - (1 << 30) + memory.expert_bytes >= 0


@given(st.floats(0.02, 0.98), st.floats(EVEN_SKEW, HIGH_SKEW))
def test_a_hit_rate_tells_its_skew(share: float, skew: float) -> None:
    assert skew_of(share, 1 - (1 - share) ** skew) == pytest.approx(skew, rel=1e-3)
    assert skew_of(share, 1.0) == skew_of(share, 0.0) == EVEN_SKEW
