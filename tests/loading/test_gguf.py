"""hetsched.load of GGUF files: the numbers that gguf-py unpacks, computed bit for bit as transformers does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hetsched
from hetsched.errors import InputError
from hetsched.integrations.expert_modules import expert_modules
from hetsched.integrations.load_report import report_of
from hetsched.loading.load import load_model
from hetsched.packed import PackedStack, layout_of
from tests.architectures.discovery import model_classes
from tests.architectures.tiny import randomised, tiny_config
from tests.packed.models import gpt_oss, logits, qwen3_moe

from .made_gguf import ARCHITECTURES, KIND, files, unpacked, write

EMULATED: dict[str, Any] = {"hardware": "rtx-4060-laptop-8gb", "gpu_memory": "40%", "time_scale": 1.0}
TYPES = [
    (KIND.Q8_0, KIND.Q8_0),
    (KIND.Q4_0, KIND.Q4_0),
    (KIND.Q4_K, KIND.Q6_K),  # as in Q4_K_M
    (KIND.MXFP4, KIND.MXFP4),
    (KIND.BF16, KIND.BF16),
    (KIND.F16, KIND.F32),
    (KIND.Q5_0, KIND.Q4_0),
]
WIDTHS = {"intermediate_size": 64, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}


MORE: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"norm_topk_prob": True},
    "glm4_moe": {"use_qk_norm": True},
    "dots1": {"n_shared_experts": 1},
    "deepseek_v3": {"head_dim": 8, "num_key_value_heads": 4},
}


def normed_qwen3_moe() -> Any:
    """llama.cpp's graph of it has no other."""
    return qwen3_moe(norm_topk_prob=True)


def tiny(package: str) -> Any:
    """A random model of an architecture."""
    kind = next(kind for kind in model_classes(package) if kind.__name__.endswith("ForCausalLM"))
    changes = {**WIDTHS, "num_key_value_heads": 2, **MORE.get(package, {})}
    fitting = {name: value for name, value in changes.items() if hasattr(kind.config_class(), name)}
    return randomised(kind(tiny_config(kind.config_class, fitting)))


def loaded(path: Path, **more: Any) -> Any:
    """The file's model, to be computed as transformers' reference is."""
    model = load_model(path, progress=False, **more)
    model.set_experts_implementation("eager")
    return model


@pytest.mark.parametrize(("up", "down"), TYPES, ids=[f"{up.name}-{down.name}" for up, down in TYPES])
@pytest.mark.parametrize("make", [normed_qwen3_moe, gpt_oss])
def test_every_type_is_exact(tmp_path: Path, make: Callable[[], Any], up: Any, down: Any) -> None:
    """Alone and attached, from several shards; what has no format here is unpacked, and that is said."""
    path = tmp_path / "m.gguf"
    write(path, make(), up, down, tensors=11)
    expected = logits(unpacked(path, make()))
    model = loaded(files(path)[1])
    assert torch.isfinite(expected).all()
    assert torch.equal(logits(model), expected)
    with hetsched.attach(model, **EMULATED) as handle:
        assert torch.equal(logits(model), expected)
        said = handle.stats()["loaded"]
        assert said["expert_bytes"] == handle.engine.store.num_bytes
    assert said["shards"] == len(files(path)) > 2
    assert bool(said["unpacked"]) == (up == KIND.Q5_0)
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("package", ARCHITECTURES)
def test_every_architecture_is_what_transformers_computes(tmp_path: Path, package: str) -> None:
    """Names, order of rows, and everything of the config that counts."""
    path, model = tmp_path / "m.gguf", tiny(package)
    write(path, model, KIND.Q8_0, KIND.F16, dense=KIND.F32)
    reference, found = unpacked(path, model), loaded(path, dtype="float32")
    expected = {**dict(reference.named_parameters()), **dict(reference.named_buffers())}
    values = {**dict(found.named_parameters()), **dict(found.named_buffers())}
    assert values.keys() == expected.keys()
    for name, value in values.items():
        assert torch.equal(value + 0, expected[name]), name
    assert torch.equal(logits(found), logits(reference))


@pytest.mark.parametrize("package", ["qwen2_moe", "qwen3_moe"])
def test_as_transformers_itself_reads_the_file(tmp_path: Path, package: str) -> None:
    """Where it does: but for the widths of experts, which it leaves at its defaults."""
    path, model = tmp_path / "m.gguf", tiny(package)
    write(path, model, KIND.Q8_0, KIND.Q8_0)
    own = type(model).from_pretrained(
        tmp_path, gguf_file=path.name, config=model.config, dtype=torch.float32, experts_implementation="eager"
    )
    assert torch.equal(logits(loaded(path, dtype="float32")), logits(own))


def test_other_implementations_run_it_too(tmp_path: Path) -> None:
    """As transformers loads it, in inference mode: its products look at all experts at once, from another side."""
    path = tmp_path / "m.gguf"
    write(path, normed_qwen3_moe(), KIND.Q8_0, KIND.Q8_0)
    model, reference = load_model(path, progress=False), unpacked(path, normed_qwen3_moe())
    reference.set_experts_implementation("grouped_mm")
    model.set_experts_implementation("grouped_mm")
    with torch.inference_mode():
        assert torch.equal(logits(model), logits(reference))


def test_rows_are_the_files_bytes(tmp_path: Path) -> None:
    path, model = tmp_path / "m.gguf", normed_qwen3_moe()
    write(path, model, KIND.Q4_K, KIND.Q6_K)
    found, handle = hetsched.load(path, progress=False, **EMULATED)
    with handle:
        stack = expert_modules(found)[1].gate_up_proj
        assert isinstance(stack, PackedStack)
        assert handle.engine.store.rows(1).data_ptr() == stack.rows.data_ptr()
        gate, up = layout_of(expert_modules(found)[1]).pieces[0].matrices  # type: ignore[attr-defined]
        whole = path.read_bytes()
        for matrix in (gate, up):
            assert bytes(stack.rows[2, matrix.begin : matrix.begin + matrix.num_bytes].numpy()) in whole
        assert (gate.format.name, handle.geometry.dtype) == ("q4_k", "q4_k")


def test_unpacked_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write(path, gpt_oss(), KIND.Q4_K, KIND.Q6_K)
    model = loaded(path, unpack=True)
    assert type(expert_modules(model)[0].gate_up_proj.data) is torch.Tensor
    report = report_of(model)
    assert report is not None
    assert set(report["unpacked"]) == {"Q4_K", "Q6_K"}
    assert report["unpacked_bytes"] == 2 * 4 * 3 * 256 * 256 * 2
    assert torch.equal(logits(model), logits(unpacked(path, gpt_oss())))
    hetsched.attach(model, **EMULATED).detach()
    model.save_pretrained(tmp_path / "plain")
    with pytest.raises(InputError, match="unpack=True"):
        loaded(path).save_pretrained(tmp_path / "packed")


def test_the_dtype_is_the_files_where_nothing_is_packed(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write(path, tiny("qwen3_moe"), KIND.F16, KIND.F16, dense=KIND.F16)
    model = load_model(path, progress=False)
    assert model.dtype == torch.float16
    report = report_of(model)
    assert report is not None
    assert report["unpacked"] == {}
