"""The peers of 2026: each rule on a small case, over the same laws as every policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.geometry import MoEGeometry
from hetsched.machine.gallery import machine
from hetsched.policies.class_lru import ClassLru
from hetsched.policies.hot_static import HotStatic
from hetsched.policies.kt_dynamic import KtDynamic
from hetsched.policies.llama_moe_cache import LlamaMoeCache
from hetsched.policies.payback_swap import PaybackSwap
from hetsched.policies.static import LayerSplitLast
from hetsched.policies.strata import Strata
from hetsched.scheduler import Scheduler
from hetsched.testing.policies import LAWS, Make
from hetsched.types import ExpertId, Fetch, LinkState, Outcome, Phase, Plan

PEERS = (LlamaMoeCache, ClassLru, HotStatic, Strata, PaybackSwap, KtDynamic, LayerSplitLast)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_laws(law: Callable[[Make], None], peer: Make) -> None:
    law(peer)


class Asked:
    """A policy on a small model whose copies arrive before the next layer."""

    def __init__(self, policy: Any, slots: int, *, layers: int = 1, experts: int = 16, **known: Any) -> None:
        self.shape = MoEGeometry("small", layers, experts, 1, 1024, 2048, dense_params=4_000_000)
        size = slots * self.shape.expert_bytes
        self.made = Scheduler(self.shape, machine("rtx-4060-laptop-8gb"), size, policy=policy, **known)

    def ask(self, layer: int, *wanted: int, tokens: int = 1, **measured: float) -> tuple[Plan, tuple[Fetch, ...]]:
        """One layer: its plan and what was prefetched. `measured`: lanes' seconds instead of the expected ones."""
        tokens_E = np.bincount(wanted, minlength=self.shape.num_experts)
        arrived = LinkState(arrived=tuple(self.made.residency.copying()))
        plan = self.made.step(self.made.demand(layer, tokens_E, tokens, Phase.DECODE), arrived)
        copies = self.made.prefetch().fetches
        self.made.observe(Outcome(plan, 1e-3, plan.predicted_s, **measured))
        return plan, copies

    def victims(self, requests: Sequence[int]) -> list[int]:
        """Who leaves, for requests of single experts of one layer."""
        asked = [fetch.victim for e in requests for fetch in self.ask(0, e)[0].fetches]
        return [victim.expert for victim in asked if victim is not None]

    @property
    def residents(self) -> set[tuple[int, int]]:
        """Who is there or on the way."""
        return {tuple(expert) for expert in (*self.made.residency.residents(), *self.made.residency.copying())}


def shares(*often: float, layers: int = 1, experts: int = 16) -> np.ndarray[Any, Any]:
    """Calibration counts: `often` for the first experts of the first layer, 0 for all others."""
    frequency_LE = np.zeros((layers, experts))
    frequency_LE[0, : len(often)] = often
    return frequency_LE


def test_llama_moe_cache_is_lru_but_for_large_steps() -> None:
    """33 tokens neither enter the cache nor count as a use; 32 do."""
    assert Asked(LlamaMoeCache(), 3).victims([0, 1, 2, 0, 3, 1]) == [1, 2]
    asked = Asked(LlamaMoeCache(), 2)
    asked.victims([0, 1])
    plan, _ = asked.ask(0, 0, 5, tokens=33)
    assert not plan.fetches
    assert asked.victims([2]) == [0]  # its use in the large step did not count
    assert [fetch.expert.expert for fetch in asked.ask(0, 5, tokens=32)[0].fetches] == [5]
    with pytest.raises(InputError, match="most_tokens is 0"):
        LlamaMoeCache(0)


def test_class_lru_weighs_age_by_class() -> None:
    """0 was asked for four times (class 2), long ago: age 4 / 4 against 3 / 1 of the younger 1, which leaves."""
    assert Asked(ClassLru(cpu_share=0.0, half_life=np.inf), 3).victims([0, 0, 0, 0, 1, 2, 3]) == [1]
    assert Asked(LlamaMoeCache(), 3).victims([0, 0, 0, 0, 1, 2, 3]) == [0]


def test_class_lru_waits_twice_as_long_for_twice_the_uses() -> None:
    """Class 1, age 9 against class 0, age 4: 4.5 > 4; two visits less and the younger leaves."""
    old = [0, 0]
    for between, leaves in ((4, 0), (2, 1)):
        asked = Asked(ClassLru(cpu_share=0.0, half_life=np.inf), 3)
        asked.victims(old + [2] * between + [1] + [2] * 3)
        assert asked.victims([3]) == [leaves]


def test_class_lru_forgets_uses() -> None:
    """With a half-life of one token, four uses are worth less than two soon after."""
    assert Asked(ClassLru(cpu_share=0.0, half_life=1.0), 3).victims([0, 0, 0, 0, 1, 2, 3]) == [0]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_class_lru_pays_the_cpus_share_over_the_run(share: float) -> None:
    """One miss a layer: the share holds over twenty of them, though no layer can be divided."""
    asked = Asked(ClassLru(cpu_share=share), 4)
    fetched = sum(len(asked.ask(0, e % 16)[0].fetches) for e in range(20))
    assert fetched == 20 - 20 * share


def test_class_lru_leaves_the_rarest_miss_to_the_cpu() -> None:
    asked = Asked(ClassLru(cpu_share=0.5), 2)
    asked.victims([7, 7, 7, 5, 1, 1, 2, 2, 3, 3])
    plan, _ = asked.ask(0, 4, 7)
    assert [fetch.expert.expert for fetch in plan.fetches] == [7]


@pytest.mark.parametrize("tuning", [{"cpu_share": 1.5}, {"half_life": 0.0}])
def test_class_lru_refuses_what_makes_no_sense(tuning: dict[str, float]) -> None:
    with pytest.raises(InputError, match="class-lru"):
        ClassLru(**tuning)


def test_layer_split_last_keeps_the_first_layers() -> None:
    asked = Asked(LayerSplitLast(), 40, layers=3)
    assert {layer for layer, _ in asked.residents} == {0, 1}
    assert len(asked.residents) == 32


def written(folder: Path, text: str) -> str:
    path = folder / "hot.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_hot_static_pins_the_hottest_of_each_layer(tmp_path: Path) -> None:
    """Four slots, two layers: two each, though all of layer 0's are hotter than any of layer 1's."""
    profile = written(tmp_path, "layer,expert,count\n0,3,90\n0,4,80\n0,5,70\n1,9,5\n1,9,5\n1,2,7\n1,1,1.5\n")
    asked = Asked(HotStatic(profile), 4, layers=2)
    assert asked.residents == {(0, 3), (0, 4), (1, 9), (1, 2)}
    by_calibration = Asked(HotStatic(), 2, layers=2, frequency_LE=shares(1, 2, layers=2))
    assert by_calibration.residents == {(0, 1), (1, 0)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no row"),
        ("layer,expert,count\n0,1\n", "line 2"),
        ("0,1,2\n0,x,2\n", "line 2"),
        ("0,1,nan\n", "line 1"),
        ("0,1,-1\n", "line 1"),
        ("-1,1,1\n", "line 1"),
        ("0,1,2,3\n", "line 1"),
        ("0,99,1\n", "expert 99 of layer 0"),
        ("7,0,1\n", "expert 0 of layer 7"),
    ],
)
def test_a_routing_profile_that_is_none_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        Asked(HotStatic(written(tmp_path, text)), 4, layers=2)
    with pytest.raises(InputError, match="cannot read"):
        HotStatic(str(tmp_path / "gone.csv"))


def test_payback_swap_swaps_when_it_pays_and_not_before() -> None:
    """The mean over 128 tokens has to rise until 128 * (newcomer - victim) * saving exceeds the copy."""
    asked = Asked(PaybackSwap(), 1, frequency_LE=shares(1.0))
    cost = asked.made.cost
    least = cost.copy_s() / float(cost.cpu_s(1) - cost.gpu_s(1)) / 128
    mean, new, steps = 1.0, 0.0, 0
    while new - mean <= least:
        mean, new, steps = mean * 127 / 128, new + (1 - new) / 128, steps + 1
    for step in range(1, steps + 1):
        plan, copies = asked.ask(0, 5)
        assert not plan.fetches
        assert bool(copies) == (step == steps)
    assert copies == (Fetch(ExpertId(0, 5), ExpertId(0, 0), True, copies[0].cause),)
    with pytest.raises(InputError, match="horizon"):
        PaybackSwap(0.5)


def test_payback_swap_keeps_the_link_to_itself() -> None:
    """While any copy is under way none is added."""
    asked = Asked(PaybackSwap(4), 1, frequency_LE=shares(1.0))
    tokens_E = np.bincount([5], minlength=16)
    busy = LinkState(in_flight=((ExpertId(0, 9), 1.0),))
    asked.made.residency.apply(Fetch(ExpertId(0, 9), ExpertId(0, 0), True, "x"))
    for _ in range(30):
        plan = asked.made.step(asked.made.demand(0, tokens_E, 1, Phase.DECODE), busy)
        assert not asked.made.prefetch(busy).fetches
        asked.made.observe(Outcome(plan, 1e-3, plan.predicted_s))


def test_kt_dynamic_renews_after_its_tokens_by_what_they_used() -> None:
    """Ten tokens: 5 six times, 6 three times, 7 once. Then 5 and 6 come, one at a time, and nothing more."""
    asked = Asked(KtDynamic(10), 2, frequency_LE=shares(2.0, 1.0))
    copies = [asked.ask(0, e)[1] for e in (5, 5, 5, 6, 6, 6, 5, 5, 5, 7)]
    assert not any(copies)
    moved = [fetch.expert.expert for _ in range(6) for fetch in asked.ask(0, 5)[1]]
    assert moved == [5, 6]
    assert asked.residents == {(0, 5), (0, 6)}
    with pytest.raises(InputError, match="every 0 tokens"):
        KtDynamic(0)


def test_strata_counts_what_was_measured() -> None:
    """By the profile a swap would pay; where executed layers show a CPU hardly slower than the GPU, it never does."""
    for cpu_s, swaps in ((1.0, True), (0.0, False)):
        asked = Asked(Strata(pcie_share=0.0, budget=1.0), 1, layers=2, frequency_LE=shares(1.0, layers=2))
        gpu_s = float(asked.made.cost.gpu_s(1))
        moved = 0
        for _ in range(300):
            seconds = cpu_s * float(asked.made.cost.cpu_s(1)) + gpu_s
            moved += sum(len(asked.ask(layer, 5, cpu_s=seconds, gpu_s=1e-3 + gpu_s)[1]) for layer in (0, 1))
        assert bool(moved) == swaps


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.25])
def test_stratas_uploads_keep_within_their_share_of_the_time(budget: float) -> None:
    """Fashion changes all the time, and at no moment have swaps taken more than the budget of all seconds."""
    asked, moved = Asked(Strata(horizon=16.0, budget=budget, pcie_share=0.0), 2, frequency_LE=shares(2.0, 1.0)), 0
    for step in range(400):
        moved += len(asked.ask(0, step // 20 % 16)[1])
        assert moved * asked.made.cost.copy_s() <= budget * asked.made.stats.total_s + 1e-12
    assert (moved > 3) == (budget > 0)


def test_strata_fetches_its_set_share_of_misses() -> None:
    """One in four of forty misses, in the place of the least used."""
    asked = Asked(Strata(budget=0.0, pcie_share=0.25), 2, frequency_LE=shares(2.0, 1.0))
    plans = [asked.ask(0, 4 + step % 12)[0] for step in range(8)]
    assert [len(plan.fetches) for plan in plans] == [0, 0, 0, 1] * 2
    assert plans[3].fetches[0].victim == ExpertId(0, 1)
    with pytest.raises(InputError, match="strata"):
        Strata(pcie_share=2.0)
