"""Machines that are not as a profile says: factors after a name, and the cost model's seconds with them."""

from __future__ import annotations

import pytest

from hetsched.cost.model import CostModel
from hetsched.errors import InputError
from hetsched.machine import gallery
from hetsched.machine.drift import Drift, TrueMachine, named_drifts, slowed
from hetsched.machine.profile import HardwareProfile

GEOMETRY = gallery.model("qwen3-30b-a3b")
NAME = "rtx-4060-laptop-8gb"


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_each_part_takes_its_factor_and_no_other_does(factor: float) -> None:
    """All seconds of a part, its calls, and what is nominal where no table is; the round trip is the link's."""
    plain = gallery.machine(NAME)
    usual = _seconds(plain)
    for part, slow in (("gpu", {"gpu", "gpu call", "dense"}), ("cpu", {"cpu", "cpu call"}), ("link", {"copy", "trip"})):
        found = _seconds(slowed(plain, **{part: factor}))
        for what, seconds in found.items():
            assert seconds == pytest.approx(usual[what] * (factor if what in slow else 1.0), rel=1e-9), (part, what)


def _seconds(profile: HardwareProfile) -> dict[str, float]:
    cost = CostModel(profile, GEOMETRY)
    calls = {"gpu call": cost.gpu_call_s(), "cpu call": cost.cpu_call_s(), "trip": cost.roundtrip_s(3)}
    return {"gpu": float(cost.gpu_s(5)), "cpu": float(cost.cpu_s(5)), "dense": cost.dense_s(2), **calls} | {
        "copy": cost.copy_s()
    }


def test_a_name_says_what_is_off_and_from_when() -> None:
    assert named_drifts("a+cpu=10") == ("a", (Drift(0, 1.0, 10.0, 1.0),))
    assert named_drifts("a+link=10@50+gpu=2+link=1@90")[1] == (
        Drift(0, 2.0, 1.0, 1.0),
        Drift(50, 2.0, 1.0, 10.0),
        Drift(90, 2.0, 1.0, 1.0),
    )
    assert named_drifts("folder+x/a.yaml") == ("folder+x/a.yaml", ())
    assert gallery.machine(f"{NAME}+cpu=10+link=0.1").name == f"{NAME}+cpu=10+link=0.1"
    true = gallery.true_machine(f"{NAME}+link=10@50")
    assert [step for step, _ in true.spans()] == [0, 50]
    assert true.name == f"{NAME}+link=10@50"
    assert true.spans()[0][1] is gallery.machine(NAME)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("+cpu=x", "no factor"),
        ("+cpu=2@soon", "no factor"),
        ("+cpu=0", "must lie in"),
        ("+cpu=nan", "must lie in"),
        ("+link=1e9", "must lie in"),
        ("+cpu=2@-1", "the first at 0 or later"),
    ],
)
def test_bad_factors_are_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        gallery.true_machine(NAME + text)
    assert "\n" not in str(raised.value)


def test_a_profile_to_believe_does_not_change_midway() -> None:
    with pytest.raises(InputError, match="changes midway"):
        gallery.machine(f"{NAME}+cpu=10@5")
    with pytest.raises(InputError, match="must begin after"):
        TrueMachine(gallery.machine(NAME), (Drift(5), Drift(5)))
