"""What loading a model came to, remembered for the statistics of whoever attaches it."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LoadReport:
    """`expert_bytes` were read straight into the host store, `rest_bytes` are everything else.

    `conversions`: of checkpoint tensors into expert parameters; `whole`: those that take all experts of a layer at
    once, and so need room for them. `by_transformers`: why from_pretrained loaded the model instead, "" if it did not.
    `formats`: of experts that stayed packed; `unpacked`: bytes in the files, by format, of matrices that the model has
    unpacked, and `unpacked_bytes`, what they take there.
    """

    expert_bytes: int
    rest_bytes: int
    conversions: int
    whole: int
    shards: int
    by_transformers: str = ""
    formats: tuple[str, ...] = ()
    unpacked: Mapping[str, int] = field(default_factory=dict)
    unpacked_bytes: int = 0


_REPORTS: weakref.WeakKeyDictionary[Any, LoadReport] = weakref.WeakKeyDictionary()


def remember(model: Any, report: LoadReport) -> None:
    """Keep a model's report for as long as the model lives."""
    _REPORTS[model] = report


def report_of(model: Any) -> dict[str, Any] | None:
    """The report of a model that hetsched loaded, as a dictionary."""
    return asdict(_REPORTS[model]) if model in _REPORTS else None
