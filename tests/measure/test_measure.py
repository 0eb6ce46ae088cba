"""Measuring: timing with a clock of our own, fits and tables against known truth, and one real, tiny profile."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hetsched.cost.latency import Interpolation
from hetsched.errors import InputError, UnknownNameError
from hetsched.geometry import MoEGeometry
from hetsched.machine.profile import ExpertShape, Source
from hetsched.machine.profile_yaml import load_profile, save_profile
from hetsched.measure import check, profile_run
from hetsched.measure.calls import EXPERTS, Calls, fit_calls, measure_calls
from hetsched.measure.cpu import with_switches
from hetsched.measure.experts import CACHE_MULTIPLE, MAX_POOL, MIN_POOL_BYTES, ExpertPool, pool_size
from hetsched.measure.links import SIZES_BYTES, fit_link
from hetsched.measure.request import TABLE_TOKENS, Request
from hetsched.measure.table import MORE, measure_table, table_notes
from hetsched.measure.timing import MAX_CALLS, MIN_CALLS, Timing, summarise, time_calls, time_together

SHAPE = ExpertShape(64, 32, "bf16")


class Setting:
    """A clock that moves by the durations given, one for each call; the last one repeats."""

    def __init__(self, *durations_s: float) -> None:
        self.durations_s = list(durations_s)
        self.now_s = 0.0
        self.calls: list[int] = []

    def clock(self) -> float:
        return self.now_s

    def call(self, number: int) -> None:
        self.calls.append(number)
        self.now_s += self.durations_s.pop(0) if len(self.durations_s) > 1 else self.durations_s[0]


def test_percentiles_of_known_durations() -> None:
    """Nearest rank on 1 to 10."""
    assert summarise([float(i) for i in range(10, 0, -1)]) == Timing(5.0, 1.0, 9.0, 10)


def test_warm_up_is_not_timed() -> None:
    """The first, slow call does not count; every call gets another number, so that weights are fresh."""
    machine = Setting(9.0, 0.01)
    timing = time_calls(machine.call, 0.3, machine.clock)
    assert (timing.median_s, timing.p90_s) == pytest.approx((0.01, 0.01))
    assert machine.calls == list(range(len(machine.calls)))


def test_quiet_timing_takes_one_round_of_the_budget() -> None:
    """A third of the budget suffices when the calls agree."""
    machine = Setting(0.01)
    time_calls(machine.call, 0.3, machine.clock)
    assert machine.now_s == pytest.approx(0.11, abs=0.011)


def test_noisy_round_is_repeated_and_the_quietest_kept() -> None:
    """A first round beside another job, a second one undisturbed: the second is the result."""
    noisy = [0.02, 0.05] * 3
    machine = Setting(0.01, *noisy, 0.01)
    timing = time_calls(machine.call, 0.6, machine.clock)
    assert timing.median_s == pytest.approx(0.01)
    assert timing.spread < 0.01


def test_calls_are_bounded_both_ways() -> None:
    """At least a few calls, unless each takes more than the budget; never more than the maximum."""
    fast, slow, slower = Setting(1e-6), Setting(0.1), Setting(50.0)
    assert time_calls(fast.call, 10.0, fast.clock).calls == MAX_CALLS
    assert time_calls(slow.call, 0.9, slow.clock).calls == MIN_CALLS
    assert time_calls(slower.call, 1.0, slower.clock, rounds=1).calls == 1


@given(st.floats(1e-6, 1e-4), st.floats(1e9, 1e11))
def test_fit_finds_latency_and_rate(latency_s: float, rate: float) -> None:
    """Seven sizes of an ideal link give back its two figures and no residual."""
    fit = fit_link(SIZES_BYTES, [latency_s + size / rate for size in SIZES_BYTES])
    assert fit.latency_s == pytest.approx(latency_s, rel=1e-3, abs=1e-9)
    assert fit.bytes_per_s == pytest.approx(rate, rel=1e-3)
    assert fit.residual < 1e-6


def test_fit_shows_what_does_not_fit() -> None:
    """A link that is half as fast for large copies leaves a residual; latency is never negative."""
    seconds = [size / (1e10 if size < 2**22 else 5e9) for size in SIZES_BYTES]
    fit = fit_link(SIZES_BYTES, seconds)
    assert fit.latency_s >= 0
    assert fit.residual > 0.05


def test_sizes_span_what_is_promised() -> None:
    """64 KiB to 256 MiB."""
    assert (SIZES_BYTES[0], SIZES_BYTES[-1]) == (64 * 2**10, 256 * 2**20)


@given(st.integers(1, 2**30), st.integers(2**20, 2**28), st.integers(2**30, 2**36))
def test_pool_exceeds_the_cache(expert_bytes: int, cache: int, free: int) -> None:
    """Rotation covers several caches, unless memory is too small for that; then a quarter of it; always two experts."""
    assume(4 * expert_bytes <= free)
    count = pool_size(expert_bytes, cache, free)
    wanted = max(CACHE_MULTIPLE * cache, MIN_POOL_BYTES)
    assert 2 <= count <= MAX_POOL
    assert count == MAX_POOL or count * expert_bytes >= min(wanted, free // 4 - expert_bytes)
    assert count == 2 or count * expert_bytes <= max(free // 4, wanted + expert_bytes)


def test_pool_gives_separate_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two experts of the pool share storage, and numbers wrap around."""
    from hetsched.cpu_kernels.torch_kernels import TorchLinear

    torch = pytest.importorskip("torch")
    monkeypatch.setattr("hetsched.measure.experts.MIN_POOL_BYTES", 1 << 20)
    pool, kernel = ExpertPool(ExpertShape(128, 128, "bf16"), torch.bfloat16, cache=1), TorchLinear(torch.bfloat16)
    places = {pool.at(i, kernel).gate_up_2FH.data_ptr() for i in range(pool.count)}
    assert len(places) == pool.count > 1
    assert pool.at(pool.count, kernel) is pool.at(0, kernel)


def test_table_stops_before_it_overruns_and_says_so() -> None:
    """Counts that would take longer than the time left are left out, with a note; noise is noted too."""
    seconds = {1: 0.001, 2: 0.002, 3: 0.003, 4: 0.004, 6: 0.1, 7: 0.5, 5: 0.02, 8: 3.0}

    def time_at(tokens: int, _budget_s: float) -> Timing:
        return Timing(seconds[tokens], seconds[tokens] * 0.5, seconds[tokens] * 2, 5)

    table = measure_table(time_at, SHAPE, (1, 2, 4, 8, 16), 1.0)
    assert table.tokens_P == tuple(sorted(seconds))
    notes = " ".join(table_notes("cpu", table, (1, 2, 4, 8, 16)))
    assert "above 8 tokens" in notes
    assert "noisy" in notes
    assert table.spread == pytest.approx(1.5)


def test_point_spoilt_by_a_busy_moment_is_taken_again_or_left_out() -> None:
    """One token slower than four: measured anew when that helps, else left out, tried in its gap, and said so."""
    again = {1: [0.016, 0.001], 2: [0.016, 0.017, 0.016, 0.017], 3: [0.0018], 4: [0.002]}

    def time_at(tokens: int, _budget_s: float) -> Timing:
        seconds = again[tokens].pop(0)
        return Timing(seconds, seconds, seconds, 5)

    table = measure_table(time_at, SHAPE, (1, 2, 4), 1.0)
    assert (table.tokens_P, table.median_s_P) == ((1, 3, 4), (0.001, 0.0018, 0.002))
    assert table_notes("cpu", table, (1, 2, 4)) == [
        "cpu: 2 tokens left out, slower than twice as many: the machine was busy"
    ]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Request:
    """A request that takes a fraction of a second: a tiny expert, little rotation, no budget."""
    monkeypatch.setattr("hetsched.measure.request.QUICK_S", 0.2)
    monkeypatch.setattr("hetsched.measure.experts.MIN_POOL_BYTES", 1 << 16)
    monkeypatch.setattr("hetsched.measure.experts.cache_bytes", lambda: 1 << 16)
    geometry = MoEGeometry("tiny", 1, 4, 2, 64, 32, "fp32", dense_params=64 * 64)
    return Request(geometry, "cpu", quick=True, tokens=(1, 2, 4))


def test_profile_of_this_machine(tiny: Request, tmp_path: Any) -> None:
    """A real measurement: every figure measured, the file loads again, and what is missing is said."""
    profile = profile_run.measure_profile(tiny)
    assert profile.source is Source.MEASURED
    assert profile.gpu is None
    assert profile_run.NO_GPU in profile.notes
    tokens = profile.cpu.tables[0].tokens_P
    assert 0 < len(tokens) <= 4
    assert any("left out" in note for note in profile.notes) == (not {1, 2, 4} <= set(tokens))
    assert profile.cpu.dense[0].model == "tiny"
    assert profile.cpu.call_s + profile.cpu.per_expert_s > 0
    assert profile.cpu.dense_call_s > 0
    assert profile.fingerprint["hidden"] == 64
    # A tiny expert stays in a cache, which the loader refuses as too fast; the figures of the roof are not under test.
    slow = replace(profile, cpu=replace(profile.cpu, read_bytes_per_s=1e12))
    save_profile(slow, tmp_path / "p.yaml")
    assert load_profile(tmp_path / "p.yaml") == slow


def test_profile_with_a_gallery_gpu_is_marked_emulated(tiny: Request) -> None:
    """This CPU measured, that GPU emulated: provenance keeps them apart, and the fingerprint is no real machine's."""
    profile = profile_run.measure_profile(replace(tiny, device="rtx-4090"))
    assert profile.gpu is not None
    assert profile.provenance["gpu.read_bytes_per_s"] is profile.provenance["h2d.bytes_per_s"] is Source.EMULATED
    assert "cpu.read_bytes_per_s" not in profile.provenance
    assert "emulated" in str(profile.fingerprint["gpu"])


def test_devices_that_are_not_here(tiny: Request) -> None:
    """An unknown device lists the known ones; cuda without a GPU names the way out."""
    torch = pytest.importorskip("torch")
    with pytest.raises(UnknownNameError, match="rtx-4090"):
        profile_run.measure_profile(replace(tiny, device="rtx-4091"))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="doctor"):
            profile_run.has_gpu("cuda")


def test_check_compares_with_the_profile(tiny: Request) -> None:
    """Rows at counts that were not asked for; the error is predicted / measured - 1, whatever was measured."""
    profile = profile_run.measure_profile(tiny)
    rows = check.check_profile(profile, tiny.geometry, 0.05)
    assert [row.n for row in rows] == [3, 6, 12, 24, 48, 96, 192]
    assert {n for n in check.CHECK_TOKENS if n in Request(tiny.geometry).tokens} == {3, 6}
    for row in rows:
        assert row.error == pytest.approx(row.predicted_s / row.measured_s - 1)
    errors = sorted(abs(row.error) for row in rows)
    assert (check.median_error(rows), check.worst_error(rows)) == (errors[3], errors[-1])


@pytest.mark.parametrize(("errors", "kept"), [([0.1, 9.0], 0.1), ([-0.5, 0.05, 9.0], 0.05), ([-0.5, -0.6, -0.4], -0.4)])
def test_a_row_beyond_the_target_is_measured_again(errors: list[float], kept: float) -> None:
    """A busy moment makes a measurement longer, and the prediction look too short; the shortest of three is kept."""
    rows = iter([check.CheckRow("cpu", "expert", 3, 1.0, 1 / (1 + error), error) for error in errors])
    assert check.settled(lambda: next(rows)).error == kept


def staircase(step: int, each: float, switch: int, gain: float) -> Any:
    """Seconds of a kernel that takes `step` tokens at a time, and of another one that is better from `switch` on."""

    def seconds(n: int) -> float:
        kernel_s = 1e-3 * (-(-n // step) + each * n)
        return kernel_s if n < switch else 1e-3 * (-(-switch // step) + each * switch) * gain * max(1.0, n / 200)

    return seconds


@given(st.sampled_from([1, 2, 4, 8]), st.floats(0, 1), st.sampled_from([8, 16, 32, 64, 1000]), st.floats(0.7, 1))
def test_a_table_predicts_what_lies_between_its_points(step: int, each: float, switch: int, gain: float) -> None:
    """Kernels that go in steps and change: exact from 1 to 8 tokens, within the check's target at all of its counts."""
    seconds = staircase(step, each, switch, gain)
    tokens = with_switches(TABLE_TOKENS, (1, switch))

    def time_at(count: int, _budget_s: float) -> Timing:
        return Timing(seconds(count), seconds(count), seconds(count), 5)

    table = measure_table(time_at, SHAPE, tokens, 90.0)
    predicted = Interpolation(table.tokens_P, table.median_s_P)
    assert set(tokens) <= set(table.tokens_P)
    assert len(table.tokens_P) <= len(tokens) + MORE
    assert predicted(range(1, 9)) == pytest.approx([seconds(n) for n in range(1, 9)], rel=1e-3)
    for n in check.CHECK_TOKENS:
        assert abs(float(predicted(n)) / seconds(n) - 1) <= check.WORST_ERROR


def test_a_straight_curve_is_not_looked_at_closer() -> None:
    """One count in each gap, and none of the halves."""
    asked: list[int] = []

    def time_at(count: int, _budget_s: float) -> Timing:
        asked.append(count)
        return Timing(count * 1e-3, count * 1e-3, count * 1e-3, 5)

    table = measure_table(time_at, SHAPE, (1, 2, 4, 16), 90.0)
    assert asked == [1, 2, 4, 16, 3, 8]
    assert table.tokens_P == (1, 2, 3, 4, 8, 16)


def test_both_sides_of_a_change_of_kernels_are_measured() -> None:
    """Within what is measured at all."""
    assert with_switches((1, 2, 4, 8), (1, 4, 32)) == (1, 2, 3, 4, 8)
    assert with_switches((1, 8), (1,)) == (1, 8)


def test_timing_in_turns_meets_all_alike() -> None:
    """Two calls, a machine that is busy at first: of each the undisturbed round is kept, and calls alternate."""
    order: list[str] = []
    now = [0.0]

    def call(name: str, seconds: float) -> Any:
        def run(_number: int) -> None:
            order.append(name)
            now[0] += seconds * (3 if now[0] < 1.0 else 1)

        return run

    timings = time_together([call("a", 0.01), call("b", 0.02)], 4.0, lambda: now[0])
    assert [timing.median_s for timing in timings] == pytest.approx([0.01, 0.02])
    changes = sum(earlier != later for earlier, later in pairwise(order))
    assert changes >= 7


@given(st.floats(0, 1e-4), st.floats(1e-8, 1e-4))
def test_fit_finds_a_call_and_its_experts(call_s: float, per_expert_s: float) -> None:
    """What is paid once and what is paid for each, from 1, 2, 4 and 8 experts in one go."""
    found = fit_calls([call_s + count * per_expert_s for count in EXPERTS])
    scale_s = call_s + per_expert_s
    assert found.call_s == pytest.approx(call_s, rel=1e-3, abs=1e-6 * scale_s)
    assert found.per_expert_s == pytest.approx(per_expert_s, rel=1e-3, abs=1e-6 * scale_s)


def test_a_call_of_nothing_takes_no_longer_than_one_of_something() -> None:
    """Measured in a busy moment, both parts shrink alike; else they stay."""
    assert Calls(3e-5, 1e-5).within(2e-5) == pytest.approx((1.5e-5, 0.5e-5))
    assert Calls(3e-5, 1e-5).within(1e-3) == (3e-5, 1e-5)
    assert Calls(0.0, 0.0).within(1e-3) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("seconds", "zero"), [([1e-6, 2.2e-6, 4.6e-6, 9.4e-6], "call_s"), ([4e-6, 3.9e-6, 4e-6, 3.8e-6], "per_expert_s")]
)
def test_no_part_of_a_call_is_negative(seconds: list[float], zero: str) -> None:
    """Noise that bends the line below zero leaves the other part alone, near what was measured."""
    found = fit_calls(seconds)
    assert getattr(found, zero) == 0.0
    for count, measured_s in zip(EXPERTS, seconds, strict=True):
        assert found.call_s + count * found.per_expert_s == pytest.approx(measured_s, rel=0.2)


def test_experts_one_after_another_pay_for_themselves() -> None:
    """A kernel that is called anew for every expert: what one takes is what each adds, and the call itself is small."""
    clock = Setting(0.0)

    class Slow:
        pack = staticmethod(lambda weights: weights)

        def swiglu(self, hidden_TH: Any, weights: Any) -> None:
            clock.now_s += 1e-5

    def timer(call: Any, budget_s: float) -> Timing:
        return time_calls(call, budget_s, clock.clock)

    torch = pytest.importorskip("torch")
    found = measure_calls(Slow(), timer, torch.float32, 0.01)  # type: ignore[arg-type]
    assert found == pytest.approx((0.0, 1e-5), abs=1e-12)
