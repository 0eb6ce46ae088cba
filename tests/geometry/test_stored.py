"""What experts are stored as: names, bytes of an expert's row, and bytes of a model whose layers differ."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetsched.errors import InputError
from hetsched.estimate import FILES
from hetsched.geometry import BITS_ALONE, WEIGHT_BITS, MoEGeometry, stored_bytes, stored_name

FORMATS = [name for name in WEIGHT_BITS if name not in BITS_ALONE]
GEOMETRY = MoEGeometry("toy", 3, 8, 2, 2048, 768, dense_params=1000, other_params=500)


@given(st.sampled_from(FORMATS), st.integers(1, 4), st.integers(1, 4), st.sampled_from([2, 3]))
def test_bytes_are_those_of_the_row_that_the_engine_lays_out(name: str, wide: int, high: int, matrices: int) -> None:
    """Written apart from hetsched.packed, and equal to it: gate and up, down, and biases each from a cache line on."""
    torch = pytest.importorskip("torch")
    from hetsched.formats import format_of
    from hetsched.packed import StoredAs, packed_layout

    hidden, ffn, bf16 = 256 * wide, 256 * high, torch.bfloat16
    made = format_of(name)
    plain = made.block == (1, 1)
    up = ((matrices - 1) * ffn, hidden)
    dtype = getattr(torch, made.tensors(up)[0].dtype) if plain else bf16  # type: ignore[attr-defined]
    formats = () if plain else (made,)
    layout = packed_layout(
        [
            StoredAs("up", up, dtype, formats * (matrices - 1)),
            StoredAs("down", (hidden, ffn), dtype, formats),
            StoredAs("up_bias", up[:1], dtype if name == "fp32" else bf16),
            StoredAs("down_bias", (hidden,), dtype if name == "fp32" else bf16),
        ]
    )
    assert stored_bytes(name, hidden, ffn, matrices, bias=True) == layout.row_bytes


@pytest.mark.parametrize("name", FORMATS)
def test_bits_are_those_of_the_bytes(name: str) -> None:
    """Scales included; alignment takes nothing worth mentioning."""
    assert 8 * stored_bytes(name, 4096, 1024) / (3 * 4096 * 1024) == pytest.approx(WEIGHT_BITS[name], rel=1e-3)


def test_two_formats_are_gate_and_up_and_down() -> None:
    """The bytes of both in their shares, also where one could not store the other's rows."""
    mixed = stored_bytes("q4_k/q6_k", 2048, 768)
    assert mixed == 2 * stored_bytes("q4_k", 2048, 768) // 3 + stored_bytes("q6_k", 2048, 768) // 3
    assert WEIGHT_BITS["q4_k/q6_k"] == pytest.approx(8 * mixed / (3 * 2048 * 768))
    assert stored_bytes("q4_k/q8_0", 2048, 96) > 0
    with pytest.raises(InputError, match="multiple of 256 weights"):
        stored_bytes("q8_0/q4_k", 2048, 96)


def test_a_group_is_an_argument() -> None:
    """128 weights to a scale take less than 32."""
    assert stored_bytes("int4-group+group=128", 2048, 768) / stored_bytes("int4-group", 2048, 768) == 4.125 / 4.5


@pytest.mark.parametrize("name", [*FORMATS, "int4-group+group=128", "gptq+group=64", "awq+group=32"])
def test_a_format_says_what_it_is_called(name: str) -> None:
    """As profiles and geometries call it, which do not know of what dtype its scales are."""
    from hetsched.formats import format_of, spec_of
    from hetsched.formats.fp8_block import Fp8Block

    assert spec_of(format_of(name)) == stored_name(name) == name
    assert spec_of(format_of("int4-group+group=32")) == "int4-group"
    assert spec_of(Fp8Block("bfloat16")) == "fp8-block"


@pytest.mark.parametrize(
    ("given_name", "known"), [("MXFP4", "mxfp4"), ("Int8", "int8"), ("Q4_K/q6_K", "q4_k/q6_k"), ("bf16", "bf16")]
)
def test_case_does_not_matter(given_name: str, known: str) -> None:
    assert stored_name(given_name) == known
    assert GEOMETRY.with_dtype(given_name).dtype == known


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("q5_x", "'q5_x' is not one of .*q4_k"),
        ("q4_k/q5_x", "'q5_x' is not one of"),
        ("q4_k/q4_k/q4_k", "names 3 formats"),
        ("q4_0/int4", "'int4' is not one of"),
        ("", "'' is not one of"),
        ("gptq+grop=3", "no argument 'grop'"),
    ],
)
def test_names_of_nothing_are_refused(name: str, words: str) -> None:
    """In one line that lists what there is."""
    with pytest.raises(InputError, match=words):
        GEOMETRY.with_dtype(name)
    assert name not in WEIGHT_BITS


def test_a_shape_that_a_format_cannot_store_is_refused_at_once() -> None:
    """Unless the weights were seen: then their bytes are known, in whatever formats they are."""
    with pytest.raises(InputError, match=r"experts of toy cannot be q4_k.*\[48, 2000\]"):
        MoEGeometry("toy", 3, 8, 2, 2000, 48, "q4_k")
    seen = MoEGeometry("toy", 3, 8, 2, 2000, 48, "q4_k", expert_bytes_override=70_000)
    assert seen.expert_bytes == 70_000


def test_layers_of_several_sizes() -> None:
    """A slot has room for the largest; all experts, and those of a token, take what they take."""
    sizes = (100, 300, 200)
    uneven = replace(GEOMETRY, expert_bytes_L=sizes)
    assert uneven.expert_bytes == 300
    assert uneven.total_expert_bytes == 8 * sum(sizes)
    assert uneven.token_expert_bytes == 2 * sum(sizes)
    assert replace(uneven, experts_L=(8, 2, 4)).total_expert_bytes == 8 * 100 + 2 * 300 + 4 * 200
    assert uneven.with_dtype("bf16") == GEOMETRY
    copies = replace(uneven, expert_bytes_override=50)
    assert (copies.expert_bytes, copies.total_expert_bytes, copies.token_expert_bytes) == (50, 1200, 300)
    with pytest.raises(InputError, match="not 3 numbers of bytes"):
        replace(GEOMETRY, expert_bytes_L=(1, 2))


def test_counting_bytes_needs_no_torch() -> None:
    """Whatever the format."""
    code = (
        "import sys; from hetsched.geometry import WEIGHT_BITS, stored_bytes; "
        "print(all(stored_bytes(name, 256, 256) for name in WEIGHT_BITS)); "
        "print(*(module in sys.modules for module in ('torch', 'gguf')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "False", "False"]


@pytest.mark.parametrize("name", ["q4km", "Q4_KM", "q4_k_n"])
def test_the_nearest_name_is_looked_for_among_all_that_mean_something(name: str) -> None:
    with pytest.raises(InputError, match=r"did you mean 'q4_k'\?"):
        stored_name(name)
    with pytest.raises(InputError, match=r"did you mean 'q4_k_m'\?"):
        stored_name(name, FILES)
