"""Arguments in a spec: each is of the kind that its default is, and anything else is one line."""

from __future__ import annotations

from typing import Any

import pytest

from hetsched.errors import InputError
from hetsched.plugins import plugin

GROUP = "hetsched.policies"


def test_values_are_of_the_kind_of_the_default() -> None:
    made: Any = plugin(GROUP, "CLASS-LRU+cpu_share=1+half_life=1e6+per_layer=True")
    assert (made.cpu_share, made.half_life, made.per_layer) == (1.0, 1e6, True)
    assert isinstance(made.cpu_share, float)
    assert plugin(GROUP, "llama-moe-cache+most_tokens=8").most_tokens == 8
    assert plugin(GROUP, "class-lru") is type(made)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("class-lru+cpu_share=x", "class-lru's cpu_share is 'x'; it takes a number"),
        ("hetsched+later=nan", "hetsched's later is 'nan'; it takes a number"),
        ("llama-moe-cache+most_tokens=2.5", "llama-moe-cache's most_tokens is '2.5'; it takes a whole number"),
        ("class-lru+per_layer=yes", "class-lru's per_layer is 'yes'; it takes true or false"),
        ("strata+nothing=1", "strata has no argument 'nothing'; it takes horizon, budget, pcie_share"),
        ("hot-static+profile=10", "cannot read 10"),  # a file's name, not a number
    ],
)
def test_what_a_constructor_cannot_take_is_one_line(spec: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        plugin(GROUP, spec)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
