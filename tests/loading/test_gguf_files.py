"""GGUF files that cannot be loaded are one line, before any memory is taken; others take no more than their bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hetsched
from hetsched.errors import InputError
from hetsched.loading.gguf_config import ARCHITECTURES, config_of, generation_config_of
from hetsched.loading.gguf_file import Gguf
from hetsched.loading.gguf_plan import GgufPlan
from hetsched.loading.gguf_tokenizer import tokenizer_of
from hetsched.loading.hub import located
from hetsched.loading.load import load_model
from hetsched.machine import memory as room
from hetsched.packed import Layout, PackedLayout
from hetsched.traces.content import model_digest
from tests.packed.models import logits, qwen3_moe

from .made_gguf import KIND, add_metadata, files, packed, stored, write
from .test_reading import STATUS, peak_of


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    write(path, qwen3_moe(norm_topk_prob=True), KIND.Q4_0, KIND.Q4_0)
    return path


@pytest.fixture
def path(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to be damaged, and a host store that must not be allocated."""
    (tmp_path / "m.gguf").write_bytes(source.read_bytes())
    for kind in (Layout, PackedLayout):
        monkeypatch.setattr(kind, "allocate", lambda *_: pytest.fail("memory was taken"))
    return tmp_path / "m.gguf"


def refused(path: Path, *parts: str, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        hetsched.load(path, progress=False, **options)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def rewritten(path: Path, change: Callable[[Any, dict[str, torch.Tensor]], Any], **metadata: Any) -> None:
    """The model as a file again, after a change to its writer and its tensors."""
    model = qwen3_moe(norm_topk_prob=True)
    writer = gguf.GGUFWriter(path, metadata.pop("architecture", "qwen3moe"))
    model.config.update(metadata)
    add_metadata(writer, model.config)
    tensors = dict(stored(model))
    change(writer, tensors)
    for name, value in tensors.items():
        data, kind = packed(value, KIND.F32 if value.ndim == 1 else KIND.F16)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_file_that_is_no_gguf(path: Path) -> None:
    path.write_bytes(b"PK\3\4" + bytes(100))
    refused(path, str(path), "does not begin with GGUF")
    path.write_bytes(b"")
    refused(path, str(path), "truncated or damaged")
    refused(path.with_name("other.gguf"), "other.gguf is missing; give a GGUF file")
    path.write_bytes(b"GGUF" + struct.pack(">I", 3) + bytes(100))
    refused(path, "little-endian")


@pytest.mark.parametrize("share", [0.0001, 0.002, 0.5, 0.999])
def test_a_truncated_file(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path, str(path), "truncated or damaged")


@settings(max_examples=80, deadline=None)
@given(place=st.integers(0, 3000), byte=st.integers(0, 255))
def test_a_damaged_header_is_refused_or_says_something_else(source: Path, place: int, byte: int) -> None:
    """Never another exception, and never memory for a count that a damaged byte made up."""
    whole = bytearray(source.read_bytes())
    whole[place] = byte
    other = source.with_name("damaged.gguf")
    other.write_bytes(whole)
    said = ""
    try:
        GgufPlan(other)
    except InputError as error:
        said = str(error)
    assert "\n" not in said


def test_a_missing_shard_and_one_of_another_model(path: Path) -> None:
    folder = path.parent
    write(folder / "s.gguf", qwen3_moe(norm_topk_prob=True), KIND.Q8_0, KIND.Q8_0, tensors=8)
    shards = files(folder / "s.gguf")
    first = model_digest(shards[0])
    assert first == model_digest(shards[-1]) != model_digest(path)
    shards[2].rename(folder / "kept")
    refused(shards[0], f"{shards[2]} is missing, one of 1 of {len(shards)} shards that are")
    (folder / "kept").rename(shards[2])
    write(folder / "t.gguf", qwen3_moe(norm_topk_prob=True), KIND.Q8_0, KIND.Q8_0, tensors=len(list(shards)))
    files(folder / "t.gguf")[0].replace(shards[0])
    assert model_digest(shards[-1]) != first
    refused(shards[0], "and its shards hold", "download them again")


def test_other_architectures_and_dense_models(path: Path) -> None:
    rewritten(path, lambda writer, _: writer.add_string("general.architecture", "qwen3"), architecture="qwen3moe")
    refused(path, "is of architecture 'qwen3'", ", ".join(sorted(ARCHITECTURES)))
    rewritten(path, lambda writer, _: writer.add_uint32("llama.expert_count", 0), architecture="llama")
    refused(path, "has no routed experts")


def test_tensors_that_are_missing_or_too_many(path: Path) -> None:
    rewritten(path, lambda _, tensors: tensors.pop("blk.1.attn_k.weight"))
    refused(path, "lacks 1 of the model's weights: model.layers.1.self_attn.k_proj.weight")
    rewritten(path, lambda _, tensors: tensors.pop("blk.1.ffn_up_exps.weight"))
    refused(path, "lacks blk.1.ffn_up_exps.weight")
    rewritten(path, lambda _, tensors: tensors.update({"blk.0.attn_sinks.weight": torch.zeros(2)}))
    refused(path, "holds blk.0.attn_sinks.weight, for which transformers' model has no place")
    rewritten(path, lambda _, tensors: tensors.update({"blk.0.attn_k.weight": torch.zeros(8, 256)}))
    refused(path, "self_attn.k_proj.weight", "[8, 256]")
    rewritten(path, lambda _, tensors: tensors.pop("token_embd.weight"))
    refused(path, "no token_embd.weight")


def test_gate_and_up_may_be_one_tensor(source: Path, tmp_path: Path) -> None:
    """As newer converters can write them."""

    def joined(_: Any, tensors: dict[str, torch.Tensor]) -> None:
        for layer in ("blk.0", "blk.1"):
            parts = [tensors.pop(f"{layer}.ffn_{name}_exps.weight") for name in ("gate", "up")]
            tensors[f"{layer}.ffn_gate_up_exps.weight"] = torch.cat(parts, dim=1)

    apart, together = tmp_path / "apart.gguf", tmp_path / "together.gguf"
    rewritten(apart, lambda *_: None)
    rewritten(together, joined)
    for dtype in ("float16", "bfloat16"):  # as they are, and packed
        one, other = (load_model(path, dtype=dtype, progress=False) for path in (apart, together))
        assert torch.equal(logits(one), logits(other))


def test_what_the_config_cannot_say_is_refused(path: Path) -> None:
    rewritten(path, lambda writer, _: writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE))
    refused(path, "scales its rotary embedding by 'longrope'")
    rewritten(path, lambda writer, _: writer.add_array("qwen3moe.attention.head_count", [2, 4]))
    refused(path, "layers that differ in attention.head_count")


def test_a_model_bigger_than_memory_fails_with_the_numbers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "room_bytes", lambda: 100 << 10)
    experts_bytes = 2 * 4 * 3 * 256 * 256 * 18 // 32
    refused(path, f"experts {experts_bytes / 1024:.1f} KiB", "100.0 KiB are free")
    refused(path, "holds no expert", hardware="rtx-4060-laptop-8gb", gpu_memory="1KiB")


def test_how_answers_end_and_are_drawn(path: Path) -> None:
    def change(writer: Any, _: Any) -> None:
        writer.add_eot_token_id(5)
        writer.add_sampling_temp(0.7)
        writer.add_sampling_top_k(20)

    rewritten(path, change)
    held = Gguf(path)
    config = generation_config_of(held, config_of(held))
    assert (config.eos_token_id, config.temperature, config.top_k, config.do_sample) == ([2, 5], 0.7, 20, True)
    assert held.value("attention.layer_norm_rms_epsilon") == 1e-6
    with pytest.raises(InputError, match="no tokenizer that transformers reads"):
        tokenizer_of(path)


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not say what a process's peak memory was")
def test_peak_is_the_packed_experts_and_a_shard(source: Path, tmp_path: Path) -> None:
    """At most 1.1 times their bytes and one shard, far below what they are unpacked."""
    path, layers, experts, width = tmp_path / "big.gguf", 4, 8, 1536
    model = qwen3_moe(norm_topk_prob=True)
    config = type(model.config)(**(model.config.to_dict() | {"num_hidden_layers": layers}))
    config.update({"num_experts": experts, "moe_intermediate_size": width, "hidden_size": 512, "vocab_size": 64})
    with torch.device("meta"):
        big = type(model)(config).to(torch.bfloat16)
    filled = {name: torch.full(value.shape, 0.01) for name, value in big.state_dict().items()}
    big.load_state_dict(filled, assign=True)
    write(path, big, KIND.Q4_0, KIND.Q4_0, tensors=30)
    del big, filled
    load_model(source, progress=False)  # what is imported once is not counted
    experts_bytes = layers * experts * 3 * 512 * width * 18 // 32
    limit_bytes = 1.1 * experts_bytes + Gguf(files(path)[0]).largest_shard_bytes
    assert peak_of(lambda: load_model(files(path)[0], progress=False)) < limit_bytes
    assert peak_of(lambda: load_model(files(path)[0], progress=False, unpack=True)) > limit_bytes


def test_one_file_of_a_repository_is_fetched_with_its_shards(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def fetched(name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(source.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.chdir(tmp_path)
    assert located("someone/tiny-GGUF/m.gguf", progress=False) == source
    located("someone/tiny-GGUF/Q4/m-00002-of-00003.gguf", progress=False)
    assert asked == [("someone/tiny-GGUF", ["m.gguf"]), ("someone/tiny-GGUF", ["Q4/m-*-of-00003.gguf"])]
    assert located("models/m.gguf", progress=False) == Path("models/m.gguf")
