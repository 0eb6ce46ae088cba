"""What loading needs beside the experts: mapped pages, memory, progress, and what is said of pinned memory."""

from __future__ import annotations

import ctypes
import gc
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

import hetsched
from hetsched.accelerators.cpu import CpuAccelerator
from hetsched.engine.host_store import HostStore, pinning_stats
from hetsched.errors import InputError
from hetsched.integrations.load_report import report_of
from hetsched.loading.checkpoint import Checkpoint, Reader
from hetsched.loading.load import load_model
from hetsched.loading.progress import LoadProgress
from hetsched.machine.memory import check_room, room_bytes
from hetsched.machine.sizes import show_bytes
from tests.conftest import tiny_moe

from .made import made

STATUS, RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def test_little_is_mapped_at_a_time(tmp_path: Path) -> None:
    """After each release no more than the limit stays mapped, and views read before are given up."""
    made(tmp_path, "mixtral", shard="1GB")
    checkpoint = Checkpoint(tmp_path)
    names = [name for name in checkpoint.tensors if ".experts." in name]
    expert_bytes = checkpoint.tensors[names[0]].num_bytes
    reader, mapped = Reader(checkpoint, limit_bytes=3 * expert_bytes), []
    for name in names:
        assert reader.whole(name).shape == checkpoint.tensors[name].shape
        reader.release()
        mapped.append(reader.mapped_bytes // expert_bytes)
    assert mapped[:6] == [1, 2, 0, 1, 2, 0]
    assert max(mapped) == 2


def resident_bytes(what: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1]) * 1024


def peak_of(action: Any) -> int:
    """Bytes by which this process's memory, mapped file pages among it, grew at most while `action` ran."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier loads freed would be used again, and not counted
    try:
        RESET_PEAK.write_text("5")
    except OSError as error:
        pytest.skip(f"the peak of this process's memory cannot be reset: {error}")
    before_bytes = resident_bytes("VmRSS")
    kept = action()
    peak_bytes = resident_bytes("VmHWM") - before_bytes
    del kept
    return peak_bytes


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not say what a process's peak memory was")
def test_peak_is_the_experts_and_a_shard(tmp_path: Path) -> None:
    """At most 1.1 times the experts' bytes and one shard; the same check catches a load that holds them twice."""
    experts_bytes = big_checkpoint(tmp_path / "big")
    checkpoint = Checkpoint(tmp_path / "big")
    assert len(checkpoint.files) > 5
    limit_bytes = 1.1 * experts_bytes + checkpoint.largest_shard_bytes
    del checkpoint
    made(tmp_path / "small", "mixtral")
    quiet: dict[str, Any] = {"progress": False, "cpu_kernel": "eager"}  # "auto" measures kernels, on weights of its own
    _, handle = hetsched.load(tmp_path / "small", **quiet)  # what is imported and compiled once is not counted
    handle.detach()

    def twice() -> Any:
        one = load_model(tmp_path / "big", progress=False)
        return one, [parameter.clone() for name, parameter in one.named_parameters() if ".experts." in name]

    assert peak_of(lambda: hetsched.load(tmp_path / "big", **quiet)) < limit_bytes
    assert peak_of(twice) > limit_bytes


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not say what a process's peak memory was")
def test_peak_of_packed_experts_is_theirs_and_a_shard(tmp_path: Path) -> None:
    """They go to their rows as they are: at no time are they unpacked, which is caught where it is asked for."""
    experts_bytes = big_checkpoint(tmp_path) / 2
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 5
    for shard in shards:
        pack_as_fp8(shard)
    tell_of_scales(tmp_path)
    limit_bytes = 1.1 * experts_bytes + max(shard.stat().st_size for shard in shards)
    made(tmp_path / "small", "mixtral")
    load_model(tmp_path / "small", progress=False)  # what is imported once is not counted
    assert peak_of(lambda: load_model(tmp_path, progress=False)) < limit_bytes
    assert peak_of(lambda: load_model(tmp_path, progress=False, unpack=True)) > limit_bytes


def pack_as_fp8(shard: Path) -> None:
    """A shard's experts, all of one number, as DeepSeek-V3 stores them."""
    tensors = {}
    for name, value in load_file(shard).items():
        if ".experts." in name:
            tensors[name] = torch.ones(value.shape, dtype=torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = torch.full((value.shape[0] // 128, value.shape[1] // 128), 0.01)
        else:
            tensors[name] = value
    save_file(tensors, shard, {"format": "pt"})


def tell_of_scales(folder: Path) -> None:
    """The index and the config of a folder whose experts were packed."""
    index, config = folder / "model.safetensors.index.json", folder / "config.json"
    held = json.loads(index.read_text())
    held["weight_map"] |= {f"{k}_scale_inv": file for k, file in held["weight_map"].items() if ".experts." in k}
    index.write_text(json.dumps(held))
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": settings}))


def big_checkpoint(folder: Path) -> int:
    """180 MiB of experts in shards of at most 30 MB; their bytes."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "num_local_experts": 10}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "num_experts_per_tok": 2}
    config = MixtralConfig(**sizes, **heads, dtype="bfloat16")
    with torch.device("meta"):
        model = MixtralForCausalLM(config).to(torch.bfloat16)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    model.save_pretrained(folder, max_shard_size="30MB")
    return 4 * 10 * 3 * 512 * 1536 * 2


def test_room_is_the_least_of_system_and_container(tmp_path: Path) -> None:
    unlimited = room_bytes(tmp_path)
    assert unlimited > 0
    for name, content in {"memory.max": "90000\n", "memory.current": "70000\n"}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "memory.stat").write_text("anon 60000\nactive_file 3000\ninactive_file 5000\n")
    assert room_bytes(tmp_path) == 90000 - 70000 + 8000
    (tmp_path / "memory.max").write_text("max\n")
    assert room_bytes(tmp_path) == pytest.approx(unlimited, rel=0.5)


def test_room_is_enough_to_the_byte() -> None:
    check_room("model", 700, 300, available_bytes=1000)
    with pytest.raises(
        InputError, match=r"needs 1001 B of memory \(experts 700 B, the rest 301 B\) and 1000 B are free"
    ):
        check_room("model", 700, 301, available_bytes=1000)


def test_progress_elsewhere_than_on_a_terminal_is_one_line() -> None:
    out = io.StringIO()
    with LoadProgress("olmoe", 4096, shown=True, console=Console(file=out, width=100)) as bar:
        for _ in range(4):
            bar.advance(1024)
    assert out.getvalue().startswith("olmoe: 4.0 KiB of experts in ")
    assert out.getvalue().count("\n") == 1


def test_progress_on_a_terminal_shows_bytes_and_time_left() -> None:
    out = io.StringIO()
    with LoadProgress("olmoe", 8 << 20, shown=True, console=Console(file=out, width=120, force_terminal=True)) as bar:
        bar.advance(2 << 20)
        bar.advance(2 << 20)
        bar._bar.refresh()
    assert "4.0/8.0 MiB" in out.getvalue()
    assert re.search(r"-:--:--|0:00:0\d", out.getvalue())


def test_progress_counts_every_byte_and_can_be_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a load advances by is what its experts take; nothing is printed where nothing was asked for."""
    made(tmp_path, "qwen3_moe")
    capfd.readouterr()
    load_model(tmp_path, progress=False)
    assert capfd.readouterr() == ("", "")
    advanced: list[int] = []
    monkeypatch.setattr(LoadProgress, "advance", lambda _, num_bytes: advanced.append(num_bytes))
    report = report_of(load_model(tmp_path))
    assert report is not None
    assert sum(advanced) == report["expert_bytes"]
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"{tmp_path.name}: {show_bytes(sum(advanced))} of experts in " in err


def stored() -> HostStore:
    """A store of three layers."""
    store, model = HostStore(), tiny_moe()
    for layer, block in enumerate(model.model.layers):
        store.adopt(layer, block.mlp.experts)
    return store


def test_pageable_share_is_what_the_device_refused() -> None:
    """A device that pins one layer of three."""
    store = stored()
    pinned = store.rows(1).data_ptr()
    device = SimpleNamespace(name="d", notes=["64 bytes stay pageable"], is_pinned=lambda t: t.data_ptr() == pinned)
    said = pinning_stats(store, device)
    assert said["pageable_share"] == pytest.approx(2 / 3)
    assert said["pageable_reason"] == "64 bytes stay pageable"
    device.is_pinned = lambda _: True
    assert pinning_stats(store, device) == {"pageable_share": 0.0, "pageable_reason": ""}


def test_pageable_is_all_where_no_device_copies() -> None:
    said = pinning_stats(stored(), CpuAccelerator())
    assert said == {"pageable_share": 1.0, "pageable_reason": "cpu: no device copies from host memory"}
    assert "no expert is stored" in pinning_stats(HostStore(), CpuAccelerator())["pageable_reason"]


def test_stats_say_it(model: Any) -> None:
    with hetsched.attach(model, hardware="rtx-4060-laptop-8gb", gpu_memory="25%", time_scale=1.0) as handle:
        stats = handle.stats()
    assert stats["pageable_share"] == 1.0
    assert stats["pageable_reason"].endswith("(emulated): no device copies from host memory")
    assert stats["loaded"] is None
