"""Forecasters of an evaluation: names or objects in, one fresh forecaster for each walk out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..errors import InputError
from ..forecast import Forecaster
from ..forecast.fed import Replayed, configured
from ..plugins import installed, installed_name, plugin
from ..policy import traits_of
from ..replay.opened import Bench
from ..replay.strategies import GROUP as POLICIES
from ..replay.strategies import Strategy

GROUP = "hetsched.forecasters"
ALL = "all"


class Named(NamedTuple):
    """A forecaster as it was named: `spec` is an object, a class, an installed name, or "module:Class"."""

    label: str
    spec: Any

    def forecaster(self) -> Forecaster:
        """One of its own, which no other walk has touched."""
        found = plugin(GROUP, self.spec)
        made: Forecaster = found() if isinstance(found, type) else copy.deepcopy(found)
        return made

    def fed(self, bench: Bench) -> Forecaster:
        """The same, handed what the trace has beside ids. Raises InputError where it lacks what one needs."""
        return configured(self.forecaster(), Replayed(bench.future, foresees=False))


def forecasters_of(wanted: str | Sequence[Any]) -> list[Named]:
    """Forecasters from "all" or from names and objects. Raises InputError for unknown names, or one named twice."""
    specs = list(installed(GROUP)) if isinstance(wanted, str) and wanted.strip().lower() == ALL else wanted
    specs = [part.strip() for part in specs.split(",") if part.strip()] if isinstance(specs, str) else list(specs)
    chosen = [Named(_label(spec), spec) for spec in specs]
    if not chosen:
        raise InputError("no forecaster was named; name at least one, or 'all'")
    labels = [named.label for named in chosen]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise InputError(f"two forecasters are called {twice[0]!r}; name one of them")
    return chosen


def _label(spec: Any) -> str:
    if isinstance(spec, str):
        name = installed_name(GROUP, spec)
        plugin(GROUP, name)
        if ":" not in name:
            return name
    return str(getattr(plugin(GROUP, spec), "name", spec))


def takes_forecaster(strategy: Strategy) -> bool:
    """Whether a strategy's policy asks a forecaster."""
    return traits_of(plugin(POLICIES, strategy.spec)).uses_forecaster


def asking(bench: Bench, named: Named) -> Bench:
    """The bench, with this forecaster for policies that ask one."""
    told = copy.copy(bench)
    told.study = replace(bench.study, forecaster=named.spec)
    return told
