"""Comparisons read back: as they were written, or refused by the place that is not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from hetsched.errors import InputError
from hetsched.replay.read_back import comparison_from


def test_a_comparison_comes_back_as_it_was_written(document: dict[str, Any]) -> None:
    assert comparison_from(document).document() == document


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("rows", 0, "tokens_per_s"), "fast"),
        (("rows", 0, "tokens_per_s"), float("nan")),
        (("rows", 0, "tokens_per_s"), 1e308),
        (("rows", 0, "gpu_bytes"), 10**400),
        (("rows", 0, "step_s"), 10**400),
        (("phases", "decode"), {}),
        (("tokens_scored",), 10**400),
        (("rows", 0, "strategy"), None),
        (("rows", 0, "lossless"), 1),
        (("rows", 0), 7),
        (("bounds", 0, "steps"), 1.5),
        (("bounds",), {}),
        (("facts",), None),
    ],
)
def test_a_comparison_that_is_none_is_refused_by_place(
    document: dict[str, Any], place: tuple[Any, ...], value: Any
) -> None:
    changed = json.loads(json.dumps(document))
    if place == ("facts",):
        del changed["model"]
        place = ("model",)
    else:
        inside = changed
        for step in place[:-1]:
            inside = inside[step]
        inside[place[-1]] = value
    with pytest.raises(InputError, match=re.escape(str(place[-1] if place != ("rows", 0) else "rows[0]"))):
        comparison_from(changed)
