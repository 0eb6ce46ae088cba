"""What a token and a prompt take: closed forms, limits, and the direction in which each figure moves them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetsched.cost.model import CostModel
from hetsched.errors import InputError, UnknownNameError
from hetsched.estimate import (
    ENGINES,
    Placement,
    Speculation,
    Subject,
    decode,
    engine_named,
    fitting_split,
    hit_share,
    n_cpu_moe,
    prefill,
    speculate,
    subject_of,
)
from hetsched.estimate.active import active_in_prompt
from hetsched.estimate.weights import sixteen_bits_beside
from hetsched.machine import gallery
from hetsched.machine.profile import HardwareProfile
from tests.oracles.makespan import makespan_of

LLAMA, HETSCHED = engine_named("llama.cpp"), engine_named("hetsched")


def subject(name: str = "qwen3-30b-a3b", file: str | None = "q4_k_m") -> Subject:
    return subject_of(gallery.model_config(name), name, file)


def machine(name: str = "rtx-3090") -> HardwareProfile:
    return gallery.machine(name)


def test_a_token_of_a_whole_gpu_is_its_bytes_over_the_rate_and_its_launches() -> None:
    """By hand: all weights that a token reads, and 31 launches a layer inside one graph, each 1.5 µs."""
    model, profile = subject(), machine()
    times = decode(model, profile, LLAMA, Placement(), context=0)
    assert profile.gpu is not None
    launches_s = model.geometry.num_layers * (25 + 6) * 1.5e-6 + LLAMA.step_s
    read_s = (model.geometry.token_expert_bytes + model.dense_bytes + model.head_bytes) / profile.gpu.read_bytes_per_s
    assert times.total_s - times.attention_s == pytest.approx(read_s + launches_s, rel=0.01)
    assert times.cpu_experts_s == times.link_s == times.round_trips_s == 0
    assert times.bottleneck == "GPU"


def test_a_layer_on_the_cpu_costs_its_bytes_and_one_call() -> None:
    """One more layer of --n-cpu-moe: its experts at the host's rate, one wake-up, one hand-over, no GPU call."""
    model, profile = subject(file="q8_0"), machine()
    fewer, more = (decode(model, profile, LLAMA, Placement.split(n), 0).total_s for n in (10, 11))
    assert profile.gpu is not None
    assert profile.h2d is not None
    layer_bytes = model.geometry.top_k * model.geometry.expert_bytes
    there_s = layer_bytes / profile.gpu.read_bytes_per_s + 6 * 4.5e-6
    row_s = 2 * profile.h2d.seconds(2 * model.geometry.hidden)
    cpu_s = layer_bytes / profile.cpu.read_bytes_per_s + 20e-6 + 8e-6 + row_s + 30e-6
    assert more - fewer == pytest.approx(cpu_s - there_s, rel=0.01)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "qwen3.5-35b-a3b", "glm-4.7-flash"])
def test_more_on_the_gpu_is_never_slower(engine: str, name: str) -> None:
    """Nor a shorter context. The whole model on the GPU is the fastest of all."""
    model, profile = subject(name), machine()
    layers = model.geometry.num_layers
    splits = [decode(model, profile, ENGINES[engine], Placement.split(n), 4096) for n in range(0, layers, 6)]
    seconds = [times.total_s for times in splits]
    assert seconds == sorted(seconds)
    short, long = (decode(model, profile, ENGINES[engine], Placement(), n).total_s for n in (100, 30_000))
    assert short < long


@given(hit=st.floats(0, 1), context=st.integers(0, 1 << 17), name=st.sampled_from(["hetsched", "llama.cpp"]))
@settings(max_examples=30, deadline=None)
def test_parts_make_up_the_whole(hit: float, context: int, name: str) -> None:
    """The total is the parts less what is hidden, and no shorter than the busiest lane's experts."""
    model = subject("gpt-oss-20b", "mxfp4")
    times = decode(
        model, machine("rtx-4060-laptop-8gb"), ENGINES[name], Placement(experts_per_layer=8, hit=hit), context
    )
    assert times.total_s == pytest.approx(sum(times.parts.values()) - times.hidden_s)
    assert all(seconds >= 0 for seconds in times.parts.values())
    rest_s = times.dense_s + times.attention_s + times.head_s + times.host_s
    assert times.total_s >= rest_s + max(times.gpu_experts_s, times.cpu_experts_s, times.link_s) - 1e-12


@pytest.mark.parametrize("machine_name", ["rtx-4060-laptop-8gb", "h100-pcie", "t4"])
@pytest.mark.parametrize("model_name", ["gpt-oss-20b", "mixtral-8x7b"])
def test_a_layer_of_misses_is_the_best_makespan(machine_name: str, model_name: str) -> None:
    """Against the closed form of the lanes: of all ways to share out the misses between link and CPU, the shortest."""
    profile = replace(machine(machine_name), cpu_slowdown=1.0, h2d_slowdown=1.0)
    model = subject(model_name, "bf16")
    cost, geometry = CostModel(profile, model.geometry), model.geometry
    k = geometry.top_k
    best_s = min(makespan_of(cost, [], [1] * fetched, [1] * (k - fetched)) for fetched in range(k + 1))
    none = Placement.split(geometry.num_layers)
    times = decode(model, profile, HETSCHED, none, 0)
    rest_s = times.dense_s + times.attention_s + times.head_s + times.host_s
    trips_s = (k - 1) * 2 * geometry.hidden * (1 / profile.h2d.bytes_per_s + 1 / profile.d2h.bytes_per_s)  # type: ignore[union-attr]
    assert (times.total_s - rest_s) / geometry.num_layers == pytest.approx(best_s, rel=1e-9, abs=1.01 * trips_s)
    whole = decode(model, profile, HETSCHED, Placement(), 0)
    rest_s = whole.dense_s + whole.attention_s + whole.head_s + whole.host_s
    assert (whole.total_s - rest_s) / geometry.num_layers == pytest.approx(makespan_of(cost, [1] * k, [], []))


def test_lanes_that_overlap_end_sooner() -> None:
    model, profile = subject(), machine()
    half = Placement.hot(model.geometry, 64)
    apart = decode(model, profile, LLAMA, half, 0).total_s
    assert decode(model, profile, replace(LLAMA, overlaps=True), half, 0).total_s < apart


def test_a_measured_host_time_is_hetscheds() -> None:
    from hetsched.machine.profile import HostCost

    model, profile = subject(), replace(machine(), host=HostCost(1e-3, 1e-3, 1e-3))
    assert decode(model, profile, HETSCHED, Placement(), 0).host_s == pytest.approx(model.geometry.num_layers * 1e-3)
    assert decode(model, profile, LLAMA, Placement(), 0).host_s == LLAMA.step_s


def test_without_a_gpu_all_is_the_cpus() -> None:
    profile = replace(machine(), gpu=None, h2d=None, d2h=None)
    for times in (
        decode(subject(), profile, LLAMA, Placement(), 512),
        prefill(subject(), profile, LLAMA, Placement(), 600, 512),
    ):
        assert times.gpu_experts_s == times.link_s == times.round_trips_s == 0
        assert times.bottleneck == "CPU"
        assert times.lanes["GPU"] == 0


def test_prompts_stream_weights_once_a_batch() -> None:
    """Twice the batch, half the copies a token; below 32 tokens llama.cpp copies nothing."""
    model, profile = subject(), machine()
    small, large = (prefill(model, profile, LLAMA, Placement.split(48), 8192, n) for n in (2048, 4096))
    assert small.link_s == pytest.approx(2 * large.link_s, rel=0.05)
    assert prefill(model, profile, LLAMA, Placement.split(48), 31, 512).link_s == 0
    assert prefill(model, profile, LLAMA, Placement.split(48), 32, 512).link_s > 0


def test_attention_of_prompts_grows_with_the_square() -> None:
    model, profile = subject(), machine()
    short, long = (8192 * n * prefill(model, profile, LLAMA, Placement(), 8192 * n).attention_s for n in (1, 2))
    assert 3.5 < long / short <= 4.1


def test_sharing_out_a_prompt_is_no_slower_than_either_way() -> None:
    model, profile = subject(), machine()
    ways = {
        way: prefill(model, profile, replace(HETSCHED, prompts=way), Placement(), 2048) for way in ("faster", "both")
    }
    none = Placement.split(48)
    shared = prefill(model, profile, HETSCHED, none, 512).total_s
    assert shared <= prefill(model, profile, replace(HETSCHED, prompts="faster"), none, 512).total_s
    assert ways["both"].total_s == pytest.approx(ways["faster"].total_s)


def test_speculation_yields_expected_tokens() -> None:
    """1 + a + a^2; all wrong is slower than none, all right is faster."""
    assert Speculation(2, 0.5).tokens == 1.75
    model, profile, place = subject("qwen3.5-35b-a3b"), machine(), Placement.split(20)
    plain_s = decode(model, profile, LLAMA, place, 512).total_s
    assert speculate(model, profile, LLAMA, place, 512, Speculation(2, 0.0)).total_s > plain_s
    assert speculate(model, profile, LLAMA, place, 512, Speculation(2, 1.0)).total_s < plain_s
    with pytest.raises(InputError, match="at least one draft"):
        Speculation(0, 0.5)


def test_active_experts_of_a_prompt() -> None:
    """One token's k at least, never more than there are, growing; the popular ones and the rest make up all."""
    geometry = gallery.model("gpt-oss-20b")
    found = [active_in_prompt(geometry, n) for n in (1, 8, 64, 512, 100_000)]
    assert found == sorted(found)
    assert found[0] == geometry.top_k
    assert found[-1] == pytest.approx(geometry.num_experts, rel=0.05)
    assert active_in_prompt(geometry, 64, resident=16) < active_in_prompt(geometry, 64) / 2
    assert active_in_prompt(geometry, 64, resident=32) == 0


@given(share=st.floats(0, 1), skew=st.floats(1, 8))
def test_popular_experts_meet_no_less_than_their_share(share: float, skew: float) -> None:
    """All of it where all are there, nothing where none is; with an even demand just their share."""
    assert share - 1e-9 <= hit_share(share, skew) <= 1
    assert hit_share(share, 1.0) == pytest.approx(share)
    assert (hit_share(0.0, skew), hit_share(1.0, skew)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "file", "gib"),
    [
        ("qwen3.5-35b-a3b", "q8_0", 36.9e9 / 2**30),  # reddit.com, post 1rei65v: 36.9 GB
        ("qwen3.5-35b-a3b", "q4_k_m", 21.1e9 / 2**30),  # thecodacus/llama.cpp, pull 5: 21.1
        ("gpt-oss-20b", "mxfp4", 12.1e9 / 2**30),  # ggml-org/gpt-oss-20b-GGUF: 12.1 GB
    ],
)
def test_files_have_their_published_sizes(name: str, file: str, gib: float) -> None:
    model = subject(name, file)
    rest = model.dense_bytes + model.head_bytes + model.embedding_bytes
    held = model.geometry.total_expert_bytes + rest
    assert held / 2**30 == pytest.approx(gib, rel=0.02)


def test_hetsched_holds_all_but_experts_in_sixteen_bits() -> None:
    config = gallery.model_config("gpt-oss-20b")
    model = subject_of(config, "gpt-oss-20b", sixteen_bits_beside("mxfp4"))
    assert model.dense_bytes == 2 * model.dense_params
    assert model.geometry == gallery.model("gpt-oss-20b")


def test_rows_that_are_no_whole_blocks_take_the_fallback() -> None:
    """DeepSeek-V2-Lite's experts are 1408 wide: down is q5_0 or q8_0 in a Q4_K_M file."""
    model = subject("deepseek-v2-lite")
    params = 2048 * 1408
    assert set(model.expert_bytes_L) == {int(params * (2 * 4.5 + down) / 8) for down in (5.5, 8.5)}


def test_the_flag_counts_layers_without_experts() -> None:
    """GLM-4.7-Flash's first layer is plain: --n-cpu-moe 11 leaves the experts of ten layers on the CPU."""
    model = subject("glm-4.7-flash")
    assert n_cpu_moe(model, 11) == Placement.split(10)
    assert n_cpu_moe(model, 0) == n_cpu_moe(model, 1) == Placement()
    assert n_cpu_moe(model, 99) == Placement.split(46)


def test_as_many_layers_fit_as_the_memory_holds() -> None:
    model = subject()
    for gib in (4, 8, 12, 24, 80):
        place = fitting_split(model, gib << 30, 4096)
        on_gpu = sum(model.expert_bytes_L[place.layers_on_cpu :]) * model.geometry.num_experts
        assert on_gpu + model.dense_bytes + model.head_bytes <= gib << 30
    assert place == Placement()


def test_unknown_names_are_told() -> None:
    with pytest.raises(UnknownNameError, match="unknown engine 'vllm'"):
        engine_named("vllm")
    with pytest.raises(UnknownNameError, match="unknown kind of file 'q3_k'"):
        subject(file="q3_k")
    for wrong in ({"layers_on_cpu": -1}, {"hit": 1.5}, {"experts_per_layer": -2}):
        with pytest.raises(InputError):
            Placement(**wrong)  # type: ignore[arg-type]
