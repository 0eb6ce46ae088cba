"""What users of these engines report of 2026's strategies shows in replays of synthetic routing, whatever the seed."""

from __future__ import annotations

from typing import Any

import pytest

from hetsched.geometry import MoEGeometry
from hetsched.policies.class_lru import ClassLru
from hetsched.policies.kt_dynamic import KtDynamic
from hetsched.policies.llama_moe_cache import LlamaMoeCache
from hetsched.policies.payback_swap import PaybackSwap
from hetsched.policies.strata import Strata
from hetsched.replay import compare
from hetsched.traces.synth import SynthParams, synthesise
from hetsched.traces.trace import RoutingTrace, load_trace

LAYERS, EXPERTS, TOP_K = 6, 32, 4
MODEL = MoEGeometry("facts", LAYERS, EXPERTS, TOP_K, 2048, 768, dense_params=20_000_000)
SLOW, FAST = "rtx-4090-x4", "rtx-4090"  # the same machine but for the lanes of its slot


@pytest.fixture(scope="module", params=[0, 1])
def trace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RoutingTrace:
    """Four sequences of 200 tokens, each with favourites mostly of its own, which tokens repeat."""
    path = tmp_path_factory.mktemp("facts") / "trace.npz"
    shape = {"layers": LAYERS, "experts": EXPERTS, "top_k": TOP_K, "tokens": 800, "sequences": 4}
    synthesise(SynthParams.uniform(**shape, skew=1.2, locality=0.6, drift=0.8), request.param, path)
    return load_trace(path)


def over_static(trace: RoutingTrace, machine: str, fraction: float, *policies: Any) -> list[float]:
    """Tokens/s of each, as a multiple of static-frequency's at the same bytes; fitted on the first half."""
    named = {"static": "static-frequency", **{policy.name: policy for policy in policies}}
    settings = {"decision_s": 10e-6, "bound_windows": 0}
    compared = compare(trace, MODEL, hardware=[machine], gpu_fractions=[fraction], strategies=named, **settings)
    assert not compared.failures
    rate = {row.strategy: row.tokens_per_s for row in compared.rows}
    return [rate[policy.name] / rate["static"] for policy in policies]


def test_fetching_every_miss_loses_on_a_slow_link_and_wins_on_a_fast_one(trace: RoutingTrace) -> None:
    """Four lanes of PCIe or sixteen decide between losing half and winning a tenth; a share on the CPU helps both."""
    for fraction in (0.25, 0.4):
        slow, slow_shared = over_static(trace, SLOW, fraction, LlamaMoeCache, ClassLru)
        fast, fast_shared = over_static(trace, FAST, fraction, LlamaMoeCache, ClassLru)
        assert slow < 0.7 < 1.05 < fast
        assert slow < slow_shared < 1.0
        assert fast < fast_shared


def test_dynamic_placement_gains_less_the_more_is_resident(trace: RoutingTrace) -> None:
    """Above 55 % of the experts the gain over a static placement by frequency fades, on a fast link and a slow one."""
    for machine in (FAST, SLOW):
        gains = [
            [rate - 1.0 for rate in over_static(trace, machine, fraction, KtDynamic, PaybackSwap)]
            for fraction in (0.4, 0.55, 0.7, 0.85)
        ]
        for at_40, at_55, at_70, at_85 in zip(*gains, strict=True):
            assert at_55 > at_70 > at_85
            assert at_85 < 0.6 * at_40
            assert at_40 > 0.05


def test_uploads_that_pay_move_little(trace: RoutingTrace) -> None:
    """Swaps that have to pay back keep up with caches on the fast link, with a small part of their bytes."""
    named = [LlamaMoeCache, PaybackSwap, KtDynamic, Strata]
    compared = compare(
        trace, MODEL, hardware=[FAST], gpu_fractions=[0.25], strategies=named, decision_s=10e-6, bound_windows=0
    )
    found = {row.strategy: row for row in compared.rows}
    cache = found.pop("llama-moe-cache")
    assert found["payback-swap"].tokens_per_s > cache.tokens_per_s
    assert all(row.bytes_per_token < 0.5 * cache.bytes_per_token for row in found.values())
