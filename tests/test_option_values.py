"""What Python callers may hand over: every option of attach(), load() and Scheduler, with values that make no sense.

Either it works, or it is refused by one InputError of one line; the model is as it was after either.
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hetsched
from hetsched.errors import InputError, one_line
from hetsched.geometry import MoEGeometry
from hetsched.integrations.choices import Options
from hetsched.machine.gallery import machine
from hetsched.plugins import METHODS, instance, plugin
from hetsched.scheduler import Scheduler
from hetsched.testing.models import tiny_moe

FAST = {"hardware": "rtx-4060-laptop-8gb", "gpu_memory": "25%", "time_scale": 1.0}
NUMBERS = True, -1, 0, 10**400, -0.5, math.nan, math.inf, 1e308
TEXTS = (
    "",
    " ",
    "x" * 300,
    "x" * 5000,
    "a\0b",
    "a\nb",
    "~nobody/x",
    "nan",
    "10%",
    "sys:exit",
    ".rel:Name",
    "module:",
    ":",
)
OTHERS: tuple[Any, ...] = (
    b"bytes",
    [],
    {},
    object(),
    lambda: None,
    int,
    ("a",),
    Path("x" * 300),
    Path("a\0b"),
    np.full((3, 8), np.nan),
)
HOSTILE: tuple[Any, ...] = *NUMBERS, *TEXTS, *OTHERS
ATTACH = [name for name in inspect.signature(hetsched.attach).parameters if name != "model"]
SMALL = MoEGeometry("small", num_layers=2, num_experts=4, top_k=2, hidden=32, ffn=16)


def said(call: Any, **given: Any) -> str:
    """What InputError says of a call, "" where it works. Any other exception is the test's failure."""
    refused = ""
    try:
        made = call(**given)
    except InputError as error:
        refused = str(error) or "without a word"
    else:
        if hasattr(made, "detach"):
            made.detach()
    assert one_line(refused) == refused
    return refused


@pytest.fixture(scope="module")
def small_model() -> Any:
    return tiny_moe()


@pytest.mark.parametrize("option", ATTACH)
def test_attach_refuses_or_works(option: str, small_model: Any, monkeypatch: Any, tmp_path: Path) -> None:
    """Every option with every value; and the model is free after each."""
    monkeypatch.chdir(tmp_path)  # a log of some odd name may well be written
    for value in HOSTILE:
        said(hetsched.attach, model=small_model, **(FAST | {option: value}))
        assert hetsched.attachment_of(small_model) is None, (option, value)


def test_attach_names_the_option() -> None:
    """Not only that something was wrong."""
    for option, value in (("recalibrate", 2), ("log", 3), ("cpu_kernel", 4), ("time_scale", math.inf), ("steer", {})):
        assert option in said(hetsched.attach, model=tiny_moe(), **(FAST | {option: value}))


def test_what_is_no_model_is_refused() -> None:
    for value in (None, "demo", 3, object()):
        assert said(hetsched.attach, model=value)


@pytest.mark.parametrize("option", ["path", "dtype", "unpack", "no_such_option"])
def test_load_refuses(option: str, tmp_path: Path) -> None:
    """A folder without a checkpoint; whatever comes with it."""
    for value in HOSTILE:
        assert said(hetsched.load, **({"path": tmp_path, "progress": False} | {option: value})), (option, value)


SCHEDULER = ["gpu_bytes", "policy", "solver", "forecaster", "frequency_LE", "learned", "trial", "hardware", "geometry"]


@pytest.mark.parametrize("option", SCHEDULER)
def test_scheduler_refuses_or_works(option: str) -> None:
    given = {"geometry": SMALL, "hardware": machine("rtx-4090"), "gpu_bytes": 2 * SMALL.expert_bytes}
    for value in HOSTILE:
        said(Scheduler, **(given | {option: value}))


@pytest.mark.parametrize("group", METHODS)
def test_plugins_are_checked_before_they_are_called(group: str) -> None:
    """What lacks a kind's methods is never called: sys:exit and builtins:input would be noticed."""
    for spec in ("sys:exit", "builtins:input", "typing:Any", "json:JSONDecodeError", "os:fork", "hetsched.cli:main", 3):
        with pytest.raises(InputError, match="is no "):
            instance(group, spec)
    for spec in (".rel:Name", "module:", ":Class", ":", "a b:c", "a:b c", "a..b:c"):
        with pytest.raises(InputError, match=r"is not understood"):
            plugin(group, spec)


def test_a_class_that_wants_arguments_is_refused() -> None:
    spec = "tests.test_option_values:Needy"
    with pytest.raises(InputError, match=r"wants the argument 'price'.*\+price="):
        instance("hetsched.solvers", spec)
    assert instance("hetsched.solvers", f"{spec}+price=3").price == "3"
    with pytest.raises(InputError, match="could not be made: RuntimeError: no luck"):
        instance("hetsched.solvers", f"{spec}+price=no luck")
    with pytest.raises(InputError, match="says what a policy has"):
        instance("hetsched.policies", "hetsched.policy:Policy")


@pytest.mark.parametrize("text", ["inf", "nan", "-1", "1e308", "x", "", "9" * 400])
def test_tuning_is_a_number_that_something_could_be(text: str) -> None:
    with pytest.raises(InputError, match="it takes a number from 0"):
        plugin("hetsched.policies", f"class-lru+half_life={text}")


def test_protocols_and_required_methods_agree() -> None:
    """METHODS is written out, so that plug-ins need not import what they are checked against."""
    from hetsched.accelerators.base import Accelerator
    from hetsched.dispatch.placement import PlacementSolver
    from hetsched.dispatch.solver import Solver
    from hetsched.forecast import Forecaster
    from hetsched.formats.base import Format
    from hetsched.policy import Policy

    protocols = Solver, PlacementSolver, Policy, Forecaster, Accelerator, Format
    for (group, methods), protocol in zip(METHODS.items(), protocols, strict=True):
        own = {name for name, value in inspect.getmembers(protocol, callable) if not name.startswith("_")}
        assert own.issuperset(methods) if group == "hetsched.accelerators" else own == set(methods), group


class Needy:
    """A solver whose constructor wants something."""

    name = "needy"

    def __init__(self, price: str) -> None:
        if price == "no luck":
            raise RuntimeError(price)
        self.price = price

    def solve(self, problem: Any, *, time_limit_s: float | None = None) -> Any:
        """Never called."""
        raise NotImplementedError


def test_options_and_kinds_agree() -> None:
    """Every option that is no plug-in, count or array has its kinds."""
    from hetsched.integrations.option_kinds import KINDS

    apart = {"solver", "policy", "accelerator", "forecaster", "frequency_LE", "context", "batch"}
    assert set(KINDS) == set(Options.__dataclass_fields__) - apart
