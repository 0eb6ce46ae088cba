"""Strategies of a comparison: names or objects in, one fresh policy for each cell out."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from ..errors import InputError
from ..forecast.fed import STATES, refuse_needs
from ..plugins import installed, installed_name, plugin, tuning_of
from ..policy import Policy, traits_of
from ..scheduler import DEFAULT_SOLVER

GROUP = "hetsched.policies"
ALL = "all"
Strategies: TypeAlias = str | Sequence[Any] | Mapping[str, Any]


class Strategy(NamedTuple):
    """A policy as it was named: `spec` is an object, a class, an installed name, or "module:Class"."""

    label: str
    spec: Any

    def policy(self) -> Policy:
        """A policy of its own, which no other cell has touched."""
        found = plugin(GROUP, self.spec)
        made: Policy = found() if isinstance(found, type) else copy.deepcopy(found)
        return made


def strategies_of(wanted: Strategies) -> list[Strategy]:
    """Strategies from "all", "a,b", a list of names and objects, or {label: object}.

    Raises InputError for unknown names, two strategies of one label, or none at all. A name that "all" found is not
    loaded here: should it fail, only its own cells do.
    """
    if isinstance(wanted, str) and wanted.strip().lower() == ALL:
        return [Strategy(name, name) for name in installed(GROUP)]
    if isinstance(wanted, Mapping):
        chosen = [Strategy(label, spec) for label, spec in wanted.items()]
    else:
        specs = re.split(r"[,\s]+", wanted) if isinstance(wanted, str) else wanted
        specs = [spec for spec in specs if spec != ""] if isinstance(wanted, str) else specs
        specs = [installed_name(GROUP, spec) if isinstance(spec, str) else spec for spec in specs]
        chosen = [Strategy(_label(spec), spec) for spec in specs]
    if not chosen:
        raise InputError("no strategy was named; name at least one, or 'all'")
    for strategy in chosen:
        plugin(GROUP, strategy.spec)
    labels = [strategy.label for strategy in chosen]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise InputError(f"two strategies are called {twice[0]!r}; give a mapping of names of your own to them")
    return chosen


def refuse_unasked(solver: str, chosen: Sequence[Strategy]) -> None:
    """Raise InputError for an unknown solver, and where one was named and none of these strategies asks any."""
    plugin("hetsched.solvers", solver)
    if solver != DEFAULT_SOLVER and not any(traits_of(plugin(GROUP, strategy.spec)).uses_solver for strategy in chosen):
        names = ", ".join(strategy.label for strategy in chosen)
        raise InputError(f"of the strategies ({names}) none asks a solver, so {solver} would change nothing; drop it")


def refuse_unasked_forecaster(forecaster: Any, chosen: Sequence[Strategy]) -> None:
    """Raise InputError for a forecaster that is unknown or needs what no replay has, or that none of these asks."""
    if forecaster is None:
        return
    refuse_needs(
        plugin("hetsched.forecasters", forecaster), STATES | {"future", "draft"}
    )  # whether this trace has them, its scheduler says
    if not any(traits_of(plugin(GROUP, strategy.spec)).uses_forecaster for strategy in chosen):
        names, named = ", ".join(strategy.label for strategy in chosen), getattr(forecaster, "name", forecaster)
        raise InputError(f"of the strategies ({names}) none asks a forecaster, so {named} would go unused; drop it")


def _label(spec: Any) -> str:
    tuning = tuning_of(spec) if isinstance(spec, str) else ""
    if isinstance(spec, str) and ":" not in spec.removesuffix(tuning):
        return spec
    return str(getattr(plugin(GROUP, spec), "name", spec)) + tuning
