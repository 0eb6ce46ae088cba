"""Every format keeps the laws, is installed under its name, and refuses what it does not serve in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from hetsched.errors import InputError
from hetsched.formats import format_of
from hetsched.formats.gptq import Gptq
from hetsched.formats.int4_group import Int4Group
from hetsched.testing.formats import LAWS
from tests.formats.drawn import FORMATS, label


@pytest.mark.parametrize("format_", FORMATS, ids=label)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_formats_keep_the_laws(law: Callable[..., None], format_: Any) -> None:
    law(lambda: format_)


def test_every_format_is_installed_under_its_name() -> None:
    """The names of the entry points are those that formats give themselves; none is forgotten here."""
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    table = project.partition('[project.entry-points."hetsched.formats"]\n')[2].partition("\n[")[0]
    points = dict(re.findall(r'^([\w-]+) = "(.+)"$', table, re.MULTILINE))
    for name, place in points.items():
        module, _, found = place.partition(":")
        assert getattr(import_module(module), found)().name == name
    assert set(points) == {format_.name for format_ in FORMATS}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        *(
            (f"{name}+group=0", f"{name}'s group is 0; give it at least 1 weight")
            for name in ("int4-group", "gptq", "awq")
        ),
        ("awq+scales=x", "awq's scales are 'x'; they can be bfloat16, float16, float32"),
        ("fp8-block+scales=int8", "fp8-block's scales are 'int8'; they can be"),
    ],
)
def test_a_spec_of_what_no_file_has_is_refused(spec: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        format_of(spec)


def test_a_spec_carries_what_a_checkpoint_says() -> None:
    """Group sizes and dtypes of scales as arguments; a format itself stays itself."""
    made = format_of("hetsched.formats.int4_group:Int4Group+group=128+scales=float16")
    assert (made.block, made.weight_bits) == ((1, 128), 4.125)
    assert format_of(made) is made
    with pytest.raises(InputError, match="no argument 'size'"):
        format_of("hetsched.formats.int4_group:Int4Group+size=128")


def test_act_order_is_refused_in_one_line() -> None:
    """A file whose columns are in another order would give wrong weights in silence."""
    parts = Gptq(32).pack(torch.randn(16, 64))
    order = torch.tensor([0, 1]).repeat(32)
    with pytest.raises(InputError, match="desc_act=false"):
        Gptq(32).unpack({**parts, "g_idx": order}, (16, 64), torch.float32)


def test_bytes_are_those_of_known_checkpoints() -> None:
    """gpt-oss-20b's gate and up of one expert, Qwen3-FP8's down, a Q4_K_M matrix: counted from their layouts."""
    for spec, shape, expected in (
        ("hetsched.formats.mxfp4:Mxfp4", (5760, 2880), 5760 * 90 * 17),
        ("hetsched.formats.fp8_block:Fp8Block", (2048, 768), 2048 * 768 + 16 * 6 * 4),
        ("hetsched.formats.q4_k:Q4K", (768, 2048), 768 * 8 * 144),
        ("hetsched.formats.q6_k:Q6K", (2048, 768), 2048 * 3 * 210),
    ):
        assert format_of(spec).num_bytes(shape) == expected
    assert Int4Group().num_bytes((2048, 7168)) == 2048 * (7168 // 2 + 7168 // 32 * 2)
