"""CostModel: interpolation, scaling, makespans and recalibration against closed forms, brute force and simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetsched.cost.model import CostModel
from hetsched.dispatch.problem import Device, DispatchProblem
from hetsched.errors import InputError
from hetsched.geometry import MoEGeometry
from hetsched.machine import gallery
from hetsched.machine.profile import DenseTable, ExpertShape, HardwareProfile, LatencyTable, Processor, Source
from hetsched.report.profile_plot import crossover_tokens
from tests.oracles.makespan import lanes, makespan_of

GEOMETRY = MoEGeometry("toy", 2, 8, 2, 1024, 512, "bf16", dense_params=4_000_000)
TABLE = LatencyTable(
    ExpertShape.of(GEOMETRY), (1, 2, 4, 8), (4e-4, 3.8e-4, 5e-4, 9e-4), source=Source.MEASURED, kernel="k@1"
)

CALL_S = 1e-5
READ_S = GEOMETRY.expert_params * 2 / 1e10

LAPTOP = CostModel(gallery.machine("rtx-4060-laptop-8gb"), gallery.model("qwen3-30b-a3b"))


def machine(*tables: LatencyTable, dense: tuple[DenseTable, ...] = ()) -> HardwareProfile:
    """A machine without a GPU: 10 GB/s, 100 GFLOP/s, 10 µs a call, 2 µs for each expert in it."""
    cpu = Processor("a CPU", 2**35, 1e10, 1e11, 1e-5, tables, dense, per_expert_s=2e-6, dense_call_s=1e-4)
    return HardwareProfile("box", cpu, None, None, None, Source.MEASURED, "2026-01-31")


def test_table_points_are_returned_exactly_dip_included() -> None:
    """A call of one expert takes what was measured: no line is fitted through the table, and curves may fall."""
    cost = CostModel(machine(TABLE), GEOMETRY)
    assert cost.cpu_call_s() + cost.cpu_s([1, 2, 4, 8]) == pytest.approx(TABLE.median_s_P, rel=1e-12)
    assert cost.sources == {"cpu": Source.MEASURED}


@given(st.integers(0, 10_000))
def test_interpolation_stays_between_its_neighbours(n: int) -> None:
    """Between two points no value lies outside theirs; beyond the last the curve neither falls nor outgrows work."""
    seconds = float(CostModel(machine(TABLE), GEOMETRY).cpu_s(n))
    if n == 0:
        assert seconds == 0
    elif n <= 8:
        upper = next(i for i, tokens in enumerate(TABLE.tokens_P) if tokens >= n)
        ends = TABLE.median_s_P[max(upper - 1, 0)] - CALL_S, TABLE.median_s_P[upper] - CALL_S
        assert min(ends) * (1 - 1e-9) <= seconds <= max(ends) * (1 + 1e-9)
    else:
        assert 9e-4 - CALL_S <= seconds <= (9e-4 - CALL_S) * n / 8 * (1 + 1e-9)


def test_work_hidden_behind_a_call_is_what_is_left_without_it() -> None:
    """0.31 ms to read the weights: a call of 0.2 ms that hides them leaves all of it; no time of a call is made up."""
    for one_s, marginal_s in ((6e-4, 4e-4), (4e-4, 2e-6 + READ_S), (1e-4, 1e-4)):
        table = replace(TABLE, tokens_P=(1,), median_s_P=(one_s,))
        slow = machine(table)
        cost = CostModel(replace(slow, cpu=replace(slow.cpu, call_s=2e-4)), GEOMETRY)
        assert float(cost.cpu_s(1)) == pytest.approx(marginal_s)


def test_a_marginal_table_is_taken_as_it_is() -> None:
    """What was measured in calls of several experts holds no call."""
    cost = CostModel(machine(replace(TABLE, marginal=True)), GEOMETRY)
    assert cost.cpu_s([1, 8]) == pytest.approx([4e-4, 9e-4])


def test_a_lane_starts_with_its_call_and_the_round_trip() -> None:
    """Without a GPU nothing travels; corrections of a class hold for its calls too."""
    assert CostModel(machine(), GEOMETRY).cpu_start_s(5) == CALL_S
    assert CostModel(machine(), GEOMETRY).gpu_call_s() == 0.0
    cost = CostModel(gallery.machine("rtx-4090"), GEOMETRY)
    assert cost.cpu_start_s(5) == pytest.approx(cost.roundtrip_s(5) + cost.cpu_call_s())
    before_s = cost.gpu_call_s()
    cost.recalibrate({"gpu": 2.0})
    assert cost.gpu_call_s() == before_s * 2.0


def test_arrays_give_what_scalars_give() -> None:
    """Vectorised over any shape of n."""
    cost = CostModel(gallery.machine("rtx-4090"), gallery.model("olmoe-1b-7b"))
    tokens = np.arange(12).reshape(3, 4)
    for seconds_of in (cost.cpu_s, cost.gpu_s):
        assert seconds_of(tokens).shape == (3, 4)
        assert seconds_of(tokens).ravel() == pytest.approx([float(seconds_of(int(n))) for n in tokens.ravel()])


def test_roofline_by_hand_without_a_table() -> None:
    """1 token: 3.1 MB over 10 GB/s; 256 tokens: 0.8 GFLOP over 100 GFLOP/s; 2 µs an expert on both, the call apart."""
    cost = CostModel(machine(), GEOMETRY)
    params = 3 * 1024 * 512
    assert float(cost.cpu_s(1)) == pytest.approx(2e-6 + params * 2 / 1e10)
    assert float(cost.cpu_s(256)) == pytest.approx(2e-6 + params * 2 * 256 / 1e11)


@pytest.mark.parametrize("factor", [2, 4])
def test_scaling_is_exact_on_a_roofline_machine(factor: int) -> None:
    """On a machine that obeys the roofline, a table scaled from another geometry equals that geometry's own."""
    other = replace(GEOMETRY, hidden=GEOMETRY.hidden * factor)
    truth = CostModel(machine(), other)
    seconds = CALL_S + CostModel(machine(), GEOMETRY).cpu_s([1, 2, 4, 8, 64, 512])
    table = LatencyTable(ExpertShape.of(GEOMETRY), (1, 2, 4, 8, 64, 512), tuple(seconds.tolist()))
    scaled = CostModel(machine(table), other)
    assert scaled.cpu_s([1, 4, 8, 512]) == pytest.approx(truth.cpu_s([1, 4, 8, 512]), rel=1e-9)
    assert scaled.sources == {"cpu": Source.SCALED}


def test_scaling_prefers_the_same_dtype_and_ignores_busy_tables() -> None:
    """Another dtype is another kernel; a table taken beside copies documents contention and predicts nothing."""
    near_other_dtype = replace(TABLE, shape=ExpertShape(1024, 520, "fp32"), median_s_P=(1.0,) * 4)
    busy = replace(TABLE, shape=ExpertShape(1024, 1024, "bf16"), median_s_P=(2.0,) * 4, copy_busy=True)
    far = replace(TABLE, shape=ExpertShape(4096, 4096, "bf16"), median_s_P=(1.00663e-2 + CALL_S,) * 4)
    cost = CostModel(machine(near_other_dtype, busy, far), GEOMETRY)
    assert float(cost.cpu_s(1)) == pytest.approx(1.00663e-2 * (2e-6 + READ_S) / (2e-6 + 1.00663e-2), rel=1e-3)


def test_measured_rest_of_a_layer_is_used_for_its_model_only() -> None:
    """dense_s comes from the model's own table, from the roofline for any other model."""
    dense = (DenseTable("toy", (1, 4), (2e-4, 3e-4)),)
    assert CostModel(machine(dense=dense), GEOMETRY).dense_s(4) == pytest.approx(3e-4)
    other = replace(GEOMETRY, name="other")
    assert CostModel(machine(dense=dense), other).dense_s(1) == pytest.approx(1e-4 + 8e6 / 1e10)


def test_without_a_gpu_its_work_takes_forever() -> None:
    """No silent zero, and nothing raised: whoever compares seconds finds that the CPU is sooner."""
    cost = CostModel(machine(), GEOMETRY)
    assert cost.gpu_s([0, 1, 8]).tolist() == [0.0, np.inf, np.inf]
    assert cost.each_gpu_s((1, 2)) == [np.inf, np.inf]
    assert cost.copy_s() == cost.copy_s(1) == np.inf
    assert cost.roundtrip_s(64) == cost.gpu_call_s() == 0.0
    assert min(float(cost.cpu_s(1)), cost.copy_s() + float(cost.gpu_s(1))) == float(cost.cpu_s(1))


tokens_lists = st.lists(st.integers(1, 300), max_size=5)


@given(tokens_lists, tokens_lists, tokens_lists, st.floats(0, 5e-3))
@settings(max_examples=60)
def test_makespan_equals_the_dispatch_problems(
    resident: list[int], fetched: list[int], on_cpu: list[int], free_s: float
) -> None:
    """The closed form and the solvers' objective, written apart, agree on every partition."""
    cost = LAPTOP
    tokens = np.array(resident + fetched + on_cpu, dtype=int)
    choice = [Device.GPU] * len(resident) + [Device.FETCH] * len(fetched) + [Device.CPU] * len(on_cpu)
    problem = DispatchProblem(
        gpu_s_N=cost.gpu_s(tokens),
        cpu_s_N=cost.cpu_s(tokens),
        copy_s_N=np.full(len(tokens), cost.copy_s()),
        ready_s_N=np.array([0.0 if device is Device.GPU else np.inf for device in choice]),
        utility_N=np.zeros(len(tokens)),
        victim_price_V=np.zeros(len(fetched)),
        link_free_s=free_s,
        roundtrip_s=cost.cpu_start_s(sum(on_cpu)),
        gpu_call_s=cost.gpu_call_s(),
    )
    expected = problem.makespan_s(np.array(choice, np.int8))
    assert makespan_of(cost, resident, fetched, on_cpu, free_s) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def stepped(
    cpu: float, cpu_start: float, copies: list[float], link_start: float, slow: tuple[float, float], dt: float
) -> tuple[float, list[float]]:
    """End of the CPU lane and arrival of each copy, by stepping through time."""
    now, done, arrivals, cpu_end = 0.0, 0.0, [], 0.0
    targets = np.cumsum(copies)
    left = cpu
    while left > 1e-12 or len(arrivals) < len(copies):
        cpu_busy = left > 1e-12 and now >= cpu_start
        link_busy = len(arrivals) < len(copies) and now >= link_start
        both = cpu_busy and link_busy
        now += dt
        if cpu_busy:
            left -= dt / (slow[0] if both else 1.0)
            cpu_end = now
        if link_busy:
            done += dt / (slow[1] if both else 1.0)
            while len(arrivals) < len(copies) and done >= targets[len(arrivals)] - 1e-12:
                arrivals.append(now)
    return cpu_end, arrivals


@given(
    st.just(0.0) | st.floats(0.01, 1.0),
    st.floats(0.0, 0.5),
    st.lists(st.floats(0.05, 0.6), max_size=3),
    st.floats(0.0, 0.8),
    st.tuples(st.floats(1, 3), st.floats(1, 3)),
)
@settings(max_examples=60)
def test_contention_equals_stepping_through_time(
    cpu: float, roundtrip: float, copies: list[float], free: float, slow: tuple[float, float]
) -> None:
    """Lanes that slow each other while both are busy: the closed form against a simulation in small steps."""
    copies = sorted(copies)
    compute = np.full(len(copies), 1.0)  # longer than any copy, so that Johnson keeps the order given
    found = lanes(0.0, compute, np.array(copies), cpu, roundtrip, free, *slow)
    cpu_end, arrivals = stepped(cpu, roundtrip, copies, free, slow, 1e-3)
    gpu_end = 0.0
    for arrival in arrivals:
        gpu_end = max(gpu_end, arrival) + 1.0
    assert found.cpu_end_s == pytest.approx(cpu_end if cpu else 0.0, abs=8e-3)
    assert found.link_end_s == pytest.approx(arrivals[-1] if arrivals else 0.0, abs=8e-3)
    assert found.gpu_end_s == pytest.approx(gpu_end, abs=1e-2)


def test_contention_never_helps() -> None:
    """With the profile's factors a partition that uses both lanes takes longer, one that uses one lane does not."""
    cost = CostModel(gallery.machine("rtx-3090"), gallery.model("mixtral-8x7b"))
    assert makespan_of(cost, [], [1, 1], [1, 1], contention=True) > makespan_of(cost, [], [1, 1], [1, 1])
    assert makespan_of(cost, [1], [], [1, 1], contention=True) == makespan_of(cost, [1], [], [1, 1])


def test_factors_hold_for_all_seconds_of_their_class_and_for_no_other() -> None:
    """Those remembered too; the round trip of activations is the link's."""

    def seconds(cost: CostModel) -> dict[str, float]:
        each = {"gpu": cost.each_gpu_s([3])[0], "cpu": cost.each_cpu_s([3])[0], "copy": cost.copy_s()}
        return {**each, "dense": cost.dense_s(2), "start": cost.cpu_start_s(4)}

    for op, factor in (("gpu", 2.0), ("cpu", 3.0), ("copy", 0.5), ("dense", 7.0)):
        cost = CostModel(gallery.machine("rtx-4090"), gallery.model("olmoe-1b-7b"))
        before, call_s, trip_s = seconds(cost), cost.cpu_call_s(), cost.roundtrip_s(4)
        cost.recalibrate({op: factor})
        after = seconds(cost)
        for name in ("gpu", "cpu", "copy", "dense"):
            assert after[name] == before[name] * (factor if name == op else 1.0)
        start_s = call_s * (factor if op == "cpu" else 1.0) + trip_s * (factor if op == "copy" else 1.0)
        assert after["start"] == pytest.approx(start_s)
        assert cost.corrections[op] == factor
        assert cost.version == 1


@pytest.mark.parametrize("factors", [{"disk": 1.0}, {"cpu": 0.0}, {"cpu": float("inf")}, {"cpu": float("nan")}])
def test_factors_that_are_none_are_refused(factors: dict[str, float]) -> None:
    cost = CostModel(machine(TABLE), GEOMETRY)
    with pytest.raises(InputError, match="gpu, cpu, copy, dense"):
        cost.recalibrate(factors)
    assert cost.version == 0


def test_crossover_is_the_first_count_where_fetching_wins() -> None:
    """Checked against both sides of the comparison at and just below the crossover."""
    cost = CostModel(gallery.machine("rtx-4060-laptop-8gb"), gallery.model("gpt-oss-20b"))
    n = crossover_tokens(cost)
    assert n is not None

    def fetch_less_cpu(tokens: int) -> float:
        return makespan_of(cost, [], [tokens], []) - makespan_of(cost, [], [], [tokens])

    assert fetch_less_cpu(n) < 0 <= fetch_less_cpu(n - 1)
    assert crossover_tokens(CostModel(machine(), GEOMETRY)) is None
