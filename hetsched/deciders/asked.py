"""What a policy asks beside the demand, a forecaster and a solver; one that it does not ask is refused, not ignored.

And what a scheduler cannot be made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from ..errors import InputError
from ..forecast import DEFAULT_FORECASTER, Forecaster, Learned
from ..forecast.fed import Contexts, configured
from ..geometry import MoEGeometry
from ..machine.profile import HardwareProfile
from ..policy import Policy, traits_of

DEFAULT_SOLVER = "exact"


def forecaster_of(policy: Policy, spec: Any, known: Contexts | None, learned: Learned | None) -> Forecaster | None:
    """The forecaster that was named, or the policy's usual one; None for a policy that asks none."""
    if not traits_of(policy).uses_forecaster:
        return None
    usual = getattr(policy, "forecaster", None) or DEFAULT_FORECASTER
    return configured(usual if spec is None else spec, known, learned)


def refuse_idle_solver(policy: Any, solver: Any) -> None:
    """Raise InputError where a solver other than the default is named for a policy (or class of one) that asks none."""
    if solver != DEFAULT_SOLVER and not traits_of(policy).uses_solver:
        names = [named if isinstance(named, str) else getattr(named, "name", named) for named in (policy, solver)]
        raise InputError(
            f"policy {names[0]} asks no solver, so {names[1]} would change nothing; drop the solver, or declare "
            "Traits(uses_solver=True) in the policy if it does ask"
        )


def refuse_idle_forecaster(policy: Any, forecaster: Any) -> None:
    """Raise InputError where a forecaster is named for a policy (or class of one) that asks none."""
    if forecaster is not None and not traits_of(policy).uses_forecaster:
        names = [named if isinstance(named, str) else getattr(named, "name", named) for named in (policy, forecaster)]
        raise InputError(
            f"policy {names[0]} asks no forecaster, so {names[1]} would change nothing; drop it, or declare "
            "Traits(uses_forecaster=True) in the policy if it does ask"
        )


def refuse_odd(geometry: Any, hardware: Any, gpu_bytes: Any, trial: Any, learned: Any) -> None:
    """Raise InputError for what Scheduler cannot be made of."""
    for name, value, kind in (("geometry", geometry, MoEGeometry), ("hardware", hardware, HardwareProfile)):
        if not isinstance(value, kind):
            raise InputError(f"{name} is {value!r:.80}; give a {kind.__name__}")
    for name, value in (("gpu_bytes", gpu_bytes), ("trial", trial)):
        if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= int(value) < 2**63:
            raise InputError(f"{name} is {value!r:.80}; give a whole number of at least 0")
    if learned is not None and not isinstance(learned, Mapping):
        raise InputError(f"learned is {learned!r:.80}; give arrays by name, as hetsched.learned reads them")
