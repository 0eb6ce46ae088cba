"""The CUDA decode kernels without a GPU: they compile for real ones, and the same source computes the right thing.

Shapes: T tokens, P pairs of token and expert, N experts, H hidden, F ffn.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hetsched.accelerators.cuda import source as cuda_source
from hetsched.accelerators.cuda.activation import Activation, activation_of, reference
from hetsched.accelerators.cuda.experts import DTYPE_NAMES, LAYER, Experts, Reading, Stored, layer_of, reading_of
from hetsched.accelerators.cuda.kernels import compiled
from hetsched.accelerators.cuda.loads import LOADS, load_of
from hetsched.formats import Format, views_of
from hetsched.formats.awq import Awq
from hetsched.formats.fp8_block import Fp8Block
from hetsched.formats.gptq import Gptq
from hetsched.formats.mxfp4 import Mxfp4
from hetsched.formats.q4_0 import Q4_0
from hetsched.formats.q4_k import Q4K
from hetsched.formats.q6_k import Q6K
from hetsched.formats.q8_0 import Q8_0
from hetsched.packed import PackedWeights, StoredAs, packed_layout
from tests.formats.drawn import FORMATS, label, parts_of

from .cuda_on_host import build, compiler

TORCH_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
ROUNDING = {"fp32": 2e-6, "bf16": 2**-7, "fp16": 2**-10}  # one unit in the last place
WEIGHTLESS = {"has_gate": True, "has_bias": False, "is_transposed": False, "has_post_expert_norm": False}
NAMES = {label(format_).replace("-", "_"): format_ for format_ in FORMATS}
OF_EACH = list({format_.name: format_ for format_ in FORMATS}.values())


@pytest.mark.parametrize(
    ("format_", "dtype", "arch"),
    [
        *((format_, "bf16", arch) for format_ in OF_EACH for arch in (80, 90)),
        *((Q4K(), dtype, 80) for dtype in ("fp32", "fp16")),
        *((format_, "bf16", 120) for format_ in (Mxfp4(), Q6K())),
    ],
    ids=lambda value: label(value) if hasattr(value, "name") else str(value),
)
def test_kernels_compile_for_real_gpus(format_: Format, dtype: str, arch: int) -> None:
    """NVRTC makes a cubin with all kernels of a format; no GPU is needed for that."""
    _nvrtc()
    cubin = compiled(load_of(format_), dtype, arch)
    assert cubin.startswith(b"\x7fELF")
    assert all(kernel.encode() in cubin for kernel in cuda_source.KERNELS)


@pytest.mark.parametrize("dtype", cuda_source.DTYPES)
def test_the_sum_compiles_for_real_gpus(dtype: str) -> None:
    _nvrtc()
    assert cuda_source.SCATTER.encode() in compiled(None, dtype, 80)


def test_every_format_of_the_project_has_a_load() -> None:
    """And one that nobody has heard of has none."""
    assert {format_.name for format_ in FORMATS} == set(LOADS)
    assert load_of(SimpleNamespace(name="q3")) is None
    assert load_of(Gptq(group=8)) is None  # a chunk would have two scales


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every format with activations in bf16."""
    return _built("bf16", NAMES, tmp_path_factory)


@pytest.fixture(scope="module", params=list(cuda_source.DTYPES))
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """One dtype, weights and activations."""
    if request.param == "bf16":
        return "bf16", request.getfixturevalue("bf16")
    return request.param, _built(request.param, [request.param], tmp_path_factory)


@pytest.mark.parametrize("name", NAMES)
def test_weights_in_registers_are_the_formats_own(bf16: Any, name: str) -> None:
    """Every weight of a random matrix, bit for bit what Format.unpack gives in fp32."""
    format_, shape = NAMES[name], (24 if name != "fp8_block_float32" else 200, 768)
    row = _row(format_, shape, seed=3)
    found = torch.full(shape, torch.nan)
    getattr(bf16, f"weights_{name}")(_at(row), _in(_stored(format_, shape)), _at(found))
    expected = format_.unpack(views_of(row, format_, shape), shape, torch.float32)
    assert torch.equal(found + 0.0, expected + 0.0)


@pytest.mark.parametrize("name", ["mxfp4", "q6_k", "fp8_block_bfloat16"])
def test_unpacked_matrices_are_the_formats_own(bf16: Any, name: str) -> None:
    """In bf16, bit for bit; two take turns in one, as gate and up do."""
    format_, shape = NAMES[name], (24, 256)
    whole = torch.full((48, 256), torch.nan, dtype=torch.bfloat16)
    for first in (0, 1):
        row = _row(format_, shape, seed=first)
        getattr(bf16, f"whole_{name}")(_at(row), _in(_stored(format_, shape)), _at(whole), first, 2)
        assert torch.equal(whole[first::2], format_.unpack(views_of(row, format_, shape), shape, torch.bfloat16))


@pytest.mark.parametrize("activation", [Activation(0), Activation(1, limit=0.75), Activation(2, 1.702, 0.75)])
def test_kernels_compute_what_eager_does(library: tuple[str, Any], activation: Activation) -> None:
    """Four tokens over five experts of one to four rows. Numbers are such that products and sums are exact."""
    dtype, host = library
    torch.manual_seed(3)
    weights = [_expert(72, 40, dtype) for _ in range(5)]
    _agree(host, dtype, weights, activation, False)


@pytest.mark.parametrize(
    ("formats", "hidden", "ffn", "activation", "transposed"),
    [
        ((Mxfp4(), Mxfp4()), 64, 32, Activation(2, 1.702, 7.0, turns=True), True),  # gpt-oss as it is published
        ((Mxfp4(), Mxfp4(), Mxfp4()), 64, 32, Activation(2, 1.702, 7.0, turns=True), True),  # and in GGUF
        ((Q4K(), Q4K(), Q6K()), 256, 256, Activation(0), False),  # Q4_K_M
        ((Q8_0(), Q4_0()), 64, 32, Activation(1, limit=0.5), False),
        ((Fp8Block(), Fp8Block()), 144, 80, Activation(0), False),  # gate ends within a block of rows
        ((Gptq(32, zero_offset=0), Awq(32)), 64, 32, Activation(0), False),
        ((Q8_0(), None), 64, 24, Activation(0), False),  # whose second matrix the format cannot store
    ],
    ids=["gpt-oss", "gpt-oss in GGUF", "Q4_K_M", "q8_0 and q4_0", "fp8", "gptq and awq", "q8_0 and bf16"],
)
def test_packed_experts(
    bf16: Any, formats: Sequence[Any], hidden: int, ffn: int, activation: Activation, transposed: bool
) -> None:
    """Experts in rows of bytes, biased where the module is transposed, as the module computes with them unpacked."""
    torch.manual_seed(5)
    weights = [_packed_expert(formats, hidden, ffn, activation.turns, transposed) for _ in range(3)]
    _agree(bf16, "bf16", weights, activation, transposed)


def test_the_structure_passed_by_value_has_the_compilers_layout(library: tuple[str, Any]) -> None:
    assert LAYER.itemsize == library[1].layer_bytes()
    assert LAYER.itemsize + 96 < 4096  # what a kernel's arguments may take


def test_more_than_a_launch_takes_is_an_error() -> None:
    with pytest.raises(ValueError, match="a launch takes"):
        layer_of(Experts([_expert(8, 8, "fp32")], [5]))


def test_weights_that_the_kernels_cannot_read_are_declined() -> None:
    """A width of half a load, half a bias, another dtype than the activations', transposed ones that are not packed."""
    plain, half = _expert(16, 8, "bf16"), torch.bfloat16
    assert reading_of(plain, half, False)
    assert not reading_of(_expert(16, 12, "bf16"), half, False)
    assert not reading_of({**plain, "down_proj_bias": torch.zeros(16, dtype=half)}, half, False)
    assert not reading_of(plain, torch.float32, False)
    assert not reading_of({**plain, "down_proj": torch.zeros(8, 16, dtype=half).T}, half, False)
    assert not reading_of(plain, half, False, is_transposed=True)
    assert not reading_of({"up_proj": plain["down_proj"].T.contiguous(), "down_proj": plain["down_proj"]}, half, False)
    biases = {"gate_up_proj_bias": torch.zeros(16), "down_proj_bias": torch.zeros(16)}
    assert not reading_of({**plain, **biases}, half, False)
    assert reading_of({**plain, **{name: bias.to(half) for name, bias in biases.items()}}, half, False)


def test_packed_experts_that_the_kernels_cannot_read_are_declined() -> None:
    """Gate and up in two formats, or joined otherwise than the module takes them; a format with no load."""
    half = torch.bfloat16
    assert reading_of(_packed_expert((Q8_0(), Q8_0(), Q8_0()), 64, 32, False, False), half, False)
    assert not reading_of(_packed_expert((Q8_0(), Q4_0(), Q8_0()), 64, 32, False, False), half, False)
    assert not reading_of(_packed_expert((Q8_0(), Q8_0(), Q8_0()), 64, 32, False, False), half, True)
    assert not reading_of(_packed_expert((Gptq(8), Q8_0()), 64, 32, False, False), half, False)
    assert not reading_of(_packed_expert((Q8_0(), Q8_0()), 64, 32, False, False), torch.float32, False)


def test_a_modules_activation_is_found_by_trying_it() -> None:
    silu = torch.nn.functional.silu

    def clamped(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, -1)
        return silu(gate.clamp(max=7.0)) * up.clamp(-7.0, 7.0)

    def interleaved(x: torch.Tensor) -> torch.Tensor:
        return silu(x[..., ::2]) * x[..., 1::2]

    def gelu(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, -1)
        return torch.nn.functional.gelu(gate) * up

    def found(gate: Any, **attributes: Any) -> Activation | None:
        return activation_of(SimpleNamespace(**{**WEIGHTLESS, **attributes}, _apply_gate=gate))

    assert found(lambda x: reference(Activation(0), x)) == Activation(0)
    assert found(clamped, swiglu_limit=7.0) == Activation(1, limit=7.0)
    assert found(clamped) is None  # its limit goes by another name
    assert found(interleaved) == Activation(0, turns=True)
    assert found(gelu) is None
    assert found(interleaved, has_post_expert_norm=True) is None


def test_activations_of_real_modules() -> None:
    """Qwen2-MoE's SwiGLU, DeepSeek-V4's clamped one and gpt-oss' own are recognised as their configurations say."""
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4Experts
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssConfig, GptOssExperts

    from hetsched.integrations.expert_modules import expert_modules
    from tests.conftest import tiny_moe

    assert activation_of(expert_modules(tiny_moe())[0]) == Activation(0)
    sizes = {"num_local_experts": 2, "hidden_size": 8, "intermediate_size": 8}
    v4 = DeepseekV4Experts(SimpleNamespace(**sizes, hidden_act="silu", swiglu_limit=10.0))
    assert activation_of(v4) == Activation(1, limit=10.0)
    gpt_oss = GptOssExperts(GptOssConfig(**sizes))
    assert activation_of(gpt_oss) == Activation(2, 1.702, 7.0, turns=True)


def _nvrtc() -> None:
    if importlib.util.find_spec("cupy_backends") is None:
        pytest.skip("CuPy is not installed (extra cuda13), so there is no door to NVRTC")


def _built(dtype: str, names: Iterable[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    if compiler() is None:
        pytest.skip("no C++ compiler here to run the kernels' source on the host")
    return build(dtype, {name: _load(NAMES[name]) for name in names}, tmp_path_factory.mktemp(dtype))


def _load(format_: Format) -> Any:
    load = load_of(format_)
    assert load is not None
    return load


def _row(format_: Any, shape: tuple[int, int], seed: int) -> torch.Tensor:
    """A random matrix in its bytes, which begin at a cache line as rows do."""
    row = torch.zeros(format_.num_bytes(shape), dtype=torch.uint8)
    for name, view in views_of(row, format_, shape).items():
        view.copy_(parts_of(format_, shape, seed)[name])
    return row


def _exact(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    """Small multiples of a power of two, so that sums of products are exact in any order."""
    return (torch.randint(-4, 5, shape) / 8).to(TORCH_DTYPES[dtype])


def _expert(hidden: int, ffn: int, dtype: str) -> dict[str, torch.Tensor]:
    return {"gate_up_proj": _exact((2 * ffn, hidden), dtype), "down_proj": _exact((hidden, ffn), dtype)}


def _packed_expert(formats: Sequence[Any], hidden: int, ffn: int, turns: bool, transposed: bool) -> PackedWeights:
    """A random expert in bf16; biases where it is transposed. `formats`: of gate and up, one or two, then of down."""
    *ups, down = ((each,) if each is not None else () for each in formats)
    shapes = {"gate_up_proj": (2 * ffn, hidden), "down_proj": (hidden, ffn)}
    if transposed:
        shapes = {name: (columns, rows) for name, (rows, columns) in shapes.items()}
    stored = {"gate_up_proj": sum(ups, ()), "down_proj": down}
    parameters = [
        StoredAs(name, shape, torch.bfloat16, stored[name], "turns" if turns else "rows", transposed)
        for name, shape in shapes.items()
    ]
    if transposed:
        sizes = {"gate_up_proj_bias": (2 * ffn,), "down_proj_bias": (hidden,)}
        parameters += [StoredAs(name, size, torch.bfloat16) for name, size in sizes.items()]
    layout = packed_layout(parameters)
    row = torch.zeros(layout.row_bytes + 64, dtype=torch.uint8)
    row = row[-row.data_ptr() % 64 :][: layout.row_bytes]
    layout.fill(row, {each.name: torch.randn(each.shape).to(torch.bfloat16) for each in parameters})
    weights = layout.views(row)
    assert isinstance(weights, PackedWeights)
    return weights


def _agree(host: Any, dtype: str, weights: list[Any], activation: Activation, transposed: bool) -> None:
    """Whether the kernels on the host and the module's own arithmetic give the same sums; and the kernels twice."""
    reading = reading_of(weights[0], TORCH_DTYPES[dtype], activation.turns, transposed)
    assert reading is not None
    hidden_TH = _exact((4, reading.up.columns), dtype)
    rows = [[2], [0, 1, 2, 3], [3, 0], [1], [2, 0, 3]][: len(weights)]
    row_P = torch.tensor([row for of_expert in rows for row in of_expert])
    weight_P = torch.rand(len(row_P))
    experts = Experts(weights, [len(of_expert) for of_expert in rows])
    out_TH = torch.zeros_like(hidden_TH)
    for p, (e, row) in enumerate((e, row) for e, of_expert in enumerate(rows) for row in of_expert):
        projected_F = _project(hidden_TH[row : row + 1], weights[e], "gate_up_proj", transposed)
        part_H = _project(reference(activation, projected_F), weights[e], "down_proj", transposed) * weight_P[p]
        out_TH[row] += part_H[0].to(hidden_TH.dtype)
    found_TH = _on_host(host, reading, experts, activation, hidden_TH, row_P, weight_P)
    scale = max(1.0, float(out_TH.abs().max()))
    torch.testing.assert_close(found_TH, out_TH, rtol=4 * ROUNDING[dtype], atol=4 * scale * ROUNDING[dtype])
    assert torch.equal(found_TH, _on_host(host, reading, experts, activation, hidden_TH, row_P, weight_P))


def _project(x: torch.Tensor, weights: Any, name: str, transposed: bool) -> torch.Tensor:
    product = x @ weights[name] if transposed else x @ weights[name].T
    bias = weights.get(f"{name}_bias")
    return product if bias is None else product + bias


def _on_host(
    host: Any,
    reading: Reading,
    experts: Experts,
    activation: Activation,
    hidden_TH: torch.Tensor,
    row_P: torch.Tensor,
    weight_P: torch.Tensor,
) -> torch.Tensor:
    (num_tokens, hidden), pairs, ffn = hidden_TH.shape, len(row_P), reading.down.columns
    act_PF, part_PH = hidden_TH.new_full((pairs, ffn), 77.0), hidden_TH.new_full((pairs, hidden), 77.0)
    out_TH = hidden_TH.new_full((num_tokens, hidden), 77.0)
    layer, order = layer_of(experts), reading.order()
    up, down = reading.up.packed(), reading.down.packed()
    names = {_load(format_): name for name, format_ in NAMES.items()}
    getattr(host, f"gate_up_{names[reading.up.load]}")(
        *map(_in, (layer, up, order)),
        *map(_at, (hidden_TH, row_P, act_PF)),
        *(len(experts.weights), activation.kind),
        *(ctypes.c_float(activation.alpha), ctypes.c_float(activation.limit)),
    )
    getattr(host, f"down_{names[reading.down.load]}")(
        *map(_in, (layer, down)), *map(_at, (act_PF, weight_P, part_PH)), len(experts.weights)
    )
    host.sum(*map(_at, (part_PH, row_P, out_TH)), num_tokens, pairs, hidden)
    return out_TH


def _at(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _in(structure: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(structure.ctypes.data)


def _stored(format_: Format, shape: tuple[int, int]) -> Any:
    begins = [part.begin for part in format_.parts(shape)][1:]
    return Stored(_load(format_), *shape, *begins).packed()
